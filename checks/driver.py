"""driver: do driver, libraries and CUDA belong together?"""

from __future__ import annotations

from gpugate.errors import Unavailable
from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node
from packaging.specifiers import SpecifierSet
from packaging.version import Version

# From which driver on a CUDA major version runs by minor-version compatibility (CUDA compatibility guide).
_MINOR_VERSION_FLOOR = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}


def check_loaded_matches_libraries(node: Node, policy: Policy, expect: Expect) -> None:
    """The running kernel module, NVML and the libcuda that the loader finds are of one version."""
    loaded = node.driver.module_version
    origin = "the running module, /sys/module/nvidia/version"
    expect("NVML library", node.driver.nvml_library.version).equals(loaded, next=Next.REBOOT, origin=origin)
    expect("libcuda", node.driver.libcuda.version).equals(loaded, next=Next.REBOOT, origin=origin)
    expect("driver that NVML talks to", node.driver.nvml_version).equals(loaded, next=Next.REBOOT, origin=origin)


def check_loaded_matches_installed(node: Node, policy: Policy, expect: Expect) -> None:
    """The module on disk for the running kernel is the one that runs: an unattended upgrade splits them."""
    expect("module on disk", node.driver.installed_module_version).equals(
        node.driver.module_version, next=Next.REBOOT, origin="the running module, /sys/module/nvidia/version"
    )


def check_version_allowed(node: Node, policy: Policy, expect: Expect) -> None:
    """The running driver is one that policy allows, and not on its deny list."""
    version = node.driver.module_version
    expect("driver", version).holds(
        Version(version) in SpecifierSet(policy.driver_allowed), policy.driver_allowed,
        next=Next.DRIVER, origin="policy gpugate_driver_allowed",
    )  # fmt: skip
    expect("driver", version).holds(
        Version(version) not in map(Version, policy.driver_denied),
        f"none of {', '.join(policy.driver_denied) or '(no version is denied)'}",
        next=Next.DRIVER, origin="policy gpugate_driver_denied",
    )  # fmt: skip


def check_runs_cuda(node: Node, policy: Policy, expect: Expect) -> None:
    """The driver runs each CUDA version that policy names, natively or by minor-version compatibility.

    Native: cuDriverGetVersion, asked in a fresh process, is at least that version. Otherwise the same major version
    runs from a driver floor on, but not code that was built to newer PTX. The floor is judged on the kernel module.
    """
    native = node.driver.cuda_version
    for wanted in policy.cuda_versions:
        major, minor = (*Version(wanted).release, 0)[:2]
        if native >= major * 1000 + minor * 10:
            expect(f"CUDA {wanted}", f"driver runs {native // 1000}.{native % 1000 // 10}").holds(
                True, "run natively", origin="policy gpugate_cuda_versions"
            )
            continue
        floor = _MINOR_VERSION_FLOOR.get(major)
        same_major = native // 1000 == major
        good = floor is not None and same_major and Version(node.driver.module_version) >= Version(floor)
        rule = f"run natively, or from driver {floor} on without newer PTX" if floor else "run natively"
        expect(
            f"CUDA {wanted}", f"driver {node.driver.module_version} runs {native // 1000}.{native % 1000 // 10}"
        ).holds(good, rule, next=Next.DRIVER, origin="policy gpugate_cuda_versions")


def check_supports_gpu(node: Node, policy: Policy, expect: Expect) -> None:
    """Every GPU has the board's compute capability, and no CUDA version that policy names has dropped it.

    CUDA 11 starts at 3.5, CUDA 12 at 5.0, CUDA 13 at 7.5 (release notes of the toolkits).
    """
    floors = {11: "3.5", 12: "5.0", 13: "7.5"}
    majors = {Version(version).major for version in policy.cuda_versions}
    if unknown := majors - set(floors):
        raise Unavailable(f"it is not known which compute capability CUDA {max(unknown)} needs")
    needed = max((floors[major] for major in majors), key=Version)
    for gpu in node.gpus:
        expect("compute capability", gpu.compute_capability, at=gpu).equals(
            policy.reference.compute_capability, next=Next.FIX_INVENTORY, origin=f"board {policy.board}"
        )
        expect("compute capability", gpu.compute_capability, at=gpu).holds(
            Version(gpu.compute_capability) >= Version(needed), f"at least {needed}",
            next=Next.FIX_POLICY, origin="policy gpugate_cuda_versions",
        )  # fmt: skip


def check_nouveau_absent(node: Node, policy: Policy, expect: Expect) -> None:
    """The nouveau driver, which would claim the cards first, is not loaded."""
    expect("nouveau loaded", node.driver.nouveau_loaded).equals(
        False, next="blacklist nouveau, rebuild the initramfs, reboot"
    )


def check_kernel_launch(node: Node, policy: Policy, expect: Expect) -> None:
    """A fresh process launched a known-answer kernel on every GPU, by UUID, and got the known answer.

    This is where CUDA 802 (fabric not up), 803 (driver and libcuda differ), 999 and their kin show.
    """
    launches = {launch.uuid: launch for launch in node.launches}
    for gpu in node.gpus:
        launched = launches.get(gpu.uuid)
        if launched is None:
            expect("kernel launch", "CUDA does not list this GPU", at=gpu).holds(False, "possible", next=Next.REBOOT)
        else:
            expect("known answer", launched.correct, at=gpu).equals(True, next=Next.RESET_GPU)
