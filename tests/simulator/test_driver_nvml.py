"""What NVML says on a healthy simulated node, and how it says no."""

from __future__ import annotations

import ctypes
import os

import pynvml
import pytest
from driver_node import MakeNode
from gpusim.boards import BOARDS
from gpusim.errors import GpusimError


def _field(handle: object, number: int, scope: int = 0) -> pynvml.c_nvmlFieldValue_t:
    value = pynvml.c_nvmlFieldValue_t(fieldId=number, scopeId=scope)
    array = (pynvml.c_nvmlFieldValue_t * 1)(value)
    pynvml._nvmlCheckReturn(pynvml._nvmlGetFunctionPointer("nvmlDeviceGetFieldValues")(handle, 1, array))
    return array[0]


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_reports_its_own_values(make_node: MakeNode, name: str) -> None:
    """Name, ids, memory, power range, thresholds, PCIe and capability are the board's."""
    board = BOARDS[name]
    gpu = make_node(name, gpus=1).gpu()
    assert pynvml.nvmlDeviceGetName(gpu) == board.name
    assert pynvml.nvmlDeviceGetPciInfo(gpu).pciDeviceId == board.device_id
    assert pynvml.nvmlDeviceGetCudaComputeCapability(gpu) == board.compute_capability
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu).total == board.memory_mib * 2**20
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2).reserved == board.reserved_mib * 2**20
    assert pynvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu) == board.power_w[0] * 1000
    limits = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)
    assert limits == [board.power_w[1] * 1000, board.power_w[2] * 1000]
    assert pynvml.nvmlDeviceGetTemperatureThreshold(gpu, pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX) == board.slowdown_c
    assert pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM) == board.sm_mhz[1]
    assert pynvml.nvmlDeviceGetGpuMaxPcieLinkGeneration(gpu) == board.pcie_gen
    assert _field(gpu, pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT).value.uiVal == board.nvlinks


@pytest.mark.parametrize("name", BOARDS)
def test_what_a_board_lacks_is_not_supported(make_node: MakeNode, name: str) -> None:
    """No margin before Ada, no memory sensor on GDDR boards, no MIG and no NVLink where there is none: code 3."""
    board = BOARDS[name]
    gpu = make_node(name, gpus=1).gpu()
    no = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert (_field(gpu, pynvml.NVML_FI_DEV_MEMORY_TEMP).nvmlReturn == no) == (board.memory_max_c is None)
    slowdown = _field(gpu, pynvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT)
    assert slowdown.nvmlReturn == (0 if board.has_margin else no)
    if board.has_margin:
        assert slowdown.value.siVal == board.slowdown_c - board.hw_slowdown_c
        assert pynvml.nvmlDeviceGetMarginTemperature(gpu) > 40
    else:
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetMarginTemperature(gpu)
    if board.mig:
        assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 0]
    else:
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetMigMode(gpu)
    if not board.row_remap:
        assert list(pynvml.nvmlDeviceGetRetiredPages(gpu, 0)) == []
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetRemappedRows(gpu)


def test_gpus_have_identities_of_their_own(make_node: MakeNode) -> None:
    """UUID, serial, bus id and minor number differ within a node and between nodes, and are the same each time."""
    one, two = make_node(gpus=8, name="one"), make_node(gpus=8, name="two")
    seen = {name: [gpu[name] for node in (one, two) for gpu in node.state.show()["gpu"]] for name in ("uuid", "serial")}
    assert {name: len(set(values)) for name, values in seen.items()} == {"uuid": 16, "serial": 16}
    assert len({gpu["bus_id"] for gpu in one.state.show()["gpu"]}) == 8
    again = make_node(gpus=8, name="one")
    assert [gpu["uuid"] for gpu in again.state.show()["gpu"]] == seen["uuid"][:8]
    gpu = again.gpu(5)
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(seen["uuid"][5])) == 5
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(pynvml.nvmlDeviceGetPciInfo(gpu).busId)) == 5
    assert pynvml.nvmlDeviceGetMinorNumber(gpu) == 5


def test_older_drivers_lack_fields_as_well(make_node: MakeNode) -> None:
    """Recovery action came with R570, times of throttling with R575: before, each field says 3 for itself."""
    numbers = (pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN)
    old = make_node(driver="550", name="old").gpu()
    assert [_field(old, number).nvmlReturn for number in numbers] == [3, 3]
    assert _field(old, pynvml.NVML_FI_DEV_PERF_POLICY_POWER).nvmlReturn == 0
    new = make_node(driver="580", name="new").gpu()
    assert [_field(new, number).nvmlReturn for number in numbers] == [0, 0]


def test_a_wrong_struct_version_is_refused(make_node: MakeNode) -> None:
    """The third version of the fabric's struct came with R580; 550 answers 25 and knows the second."""
    gpu = make_node(driver="550").gpu()
    call = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetGpuFabricInfoV")
    buffer = (ctypes.c_uint32 * 16)()
    buffer[0] = 3 << 24 | 44
    assert call(gpu, buffer) == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(info))
    assert (info.state, info.status) == (3, 0)


def test_limits_are_set_by_administrators_only(make_node: MakeNode) -> None:
    """Without privilege a setter answers 4 and changes nothing."""
    gpu = make_node().gpu()
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceSetPowerManagementLimit(gpu, 500_000)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceSetPersistenceMode(gpu, 0)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(gpu) == 700_000


@pytest.mark.usefixtures("become")
def test_where_users_are_real_the_kernel_says_who_is_root(make_node: MakeNode) -> None:
    """On a node with users of its own no variable makes an administrator: root is one, and nobody else."""
    node = make_node()
    node.state.set("real_users", True)
    node.state.clear()
    gpu, root = node.gpu(), os.geteuid() == 0
    if root:
        pynvml.nvmlDeviceSetPowerManagementLimit(gpu, 500_000)
        os.seteuid(65534)
    try:
        with pytest.raises(pynvml.NVMLError_NoPermission):
            pynvml.nvmlDeviceSetPowerManagementLimit(gpu, 600_000)
    finally:
        if root:
            os.seteuid(0)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(gpu) == (500_000 if root else 700_000)


@pytest.mark.usefixtures("become")
def test_limits_are_set_checked_and_read_back(make_node: MakeNode) -> None:
    """A limit inside the constraints is enforced on that GPU alone; one outside answers 2."""
    node = make_node()
    gpu, other = node.gpu(0), node.gpu(1)
    pynvml.nvmlDeviceSetPowerManagementLimit(gpu, 500_000)
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) == 500_000
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(other) == 700_000
    for wrong in (199_999, 700_001):
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceSetPowerManagementLimit(gpu, wrong)
    assert node.state.get("gpu.0.power_limit_w") == 500


@pytest.mark.usefixtures("become")
def test_a_setter_can_lie(make_node: MakeNode) -> None:
    """With the fault, setting succeeds and reading back shows the old value."""
    node = make_node()
    node.state.apply("power_set_ignored", gpu=1)
    gpu = node.gpu(1)
    pynvml.nvmlDeviceSetPowerManagementLimit(gpu, 500_000)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(gpu) == 700_000


def test_a_cap_from_outside_lowers_the_enforced_limit_alone(make_node: MakeNode) -> None:
    """The requested limit stays what it was."""
    node = make_node()
    node.state.set("gpu.0.cap_w", 420)
    gpu = node.gpu()
    assert pynvml.nvmlDeviceGetPowerManagementLimit(gpu) == 700_000
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) == 420_000
    assert _field(gpu, pynvml.NVML_FI_DEV_POWER_CURRENT_LIMIT).value.uiVal == 420_000
    assert _field(gpu, pynvml.NVML_FI_DEV_POWER_REQUESTED_LIMIT).value.uiVal == 700_000
    assert _field(gpu, pynvml.NVML_FI_DEV_POWER_CURRENT_LIMIT, scope=1).nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_a_lost_gpu_answers_15_and_may_still_be_counted(make_node: MakeNode) -> None:
    """Handles from before and new ones fail alike; a GPU out of the list renumbers those behind it."""
    node = make_node(gpus=3)
    gpu = node.gpu(1)
    node.state.apply("gpu_lost", gpu=1)
    assert pynvml.nvmlDeviceGetCount() == 3
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetTemperature(gpu, 0)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetHandleByIndex(1)
    node.state.apply("gpu_missing", gpu=1)
    assert pynvml.nvmlDeviceGetCount() == 2
    assert pynvml.nvmlDeviceGetMinorNumber(pynvml.nvmlDeviceGetHandleByIndex(1)) == 2


def test_a_reset_required_leaves_identity_readable(make_node: MakeNode) -> None:
    """Readings answer 16; name and recovery action still come."""
    node = make_node()
    node.state.apply("reset_required")
    gpu = node.gpu()
    with pytest.raises(pynvml.NVMLError_ResetRequired):
        pynvml.nvmlDeviceGetPowerUsage(gpu)
    assert pynvml.nvmlDeviceGetUUID(gpu) == node.state.get("gpu.0.uuid")
    assert _field(gpu, pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION).value.uiVal == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [("version_mismatch", 18), ("driver_not_loaded", 9)],
)
def test_initialisation_can_fail(make_node: MakeNode, fault: str, error: int) -> None:
    """nvmlInit answers the code, and calls without it answer 1."""
    node = make_node()
    node.state.apply(fault)
    with pytest.raises(pynvml.NVMLError) as caught:
        node.nvml()
    assert caught.value.value == error
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_rules_answer_for_a_function_a_gpu_and_a_number_of_calls(make_node: MakeNode) -> None:
    """A rule lets `after` calls pass, answers `times` calls of its GPU, and then is spent."""
    node = make_node()
    node.state.inject("nvmlDeviceGetPowerUsage", 999, after=1, times=2, gpu=1)
    gpu, other = node.gpu(1), node.gpu(0)
    codes = []
    for _ in range(5):
        assert pynvml.nvmlDeviceGetPowerUsage(other) > 0
        try:
            codes.append(pynvml.nvmlDeviceGetPowerUsage(gpu) and 0)
        except pynvml.NVMLError as error:
            codes.append(error.value)
    assert codes == [0, 999, 999, 0, 0]
    assert node.state.show()["rules"][0]["fired"] == 2


def test_a_rule_reaches_functions_that_are_not_supported(make_node: MakeNode) -> None:
    """What the simulator does not answer itself is 3, and can be made 26 (deprecated) as on a later driver."""
    node = make_node()
    gpu = node.gpu()
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetFanSpeed(gpu)
    node.state.inject("nvmlDeviceGetFanSpeed", 26)
    with pytest.raises(pynvml.NVMLError) as caught:
        pynvml.nvmlDeviceGetFanSpeed(gpu)
    assert caught.value.value == 26


def test_a_hanging_call_never_returns_and_holds_nobody_up(make_node: MakeNode) -> None:
    """The process that calls it stays in it, while another process reads on."""
    node = make_node()
    node.state.apply("nvml_hang", gpu=0)
    hanging = """
import pynvml, signal
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.alarm(1)
pynvml.nvmlDeviceGetTemperature(gpu, 0)
"""
    assert node.python(hanging).returncode == -14  # ended by its alarm, not by an answer
    gpu = node.gpu(1)
    assert pynvml.nvmlDeviceGetTemperature(gpu, 0) > 20


def test_errors_are_told_apart(make_node: MakeNode) -> None:
    """ECC, remap, InfoROM and NVLink faults show in their own calls."""
    node = make_node()
    gpu = node.gpu()
    for fault in ("ecc_uncorrectable", "remap_failed", "inforom_corrupt", "nvlink_down", "nvlink_errors"):
        node.state.apply(fault)
    volatile = pynvml.nvmlDeviceGetTotalEccErrors(
        gpu, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    )
    assert volatile == _field(gpu, pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL).value.ullVal == 1
    assert pynvml.nvmlDeviceGetRemappedRows(gpu) == (0, 8, 0, 1)
    with pytest.raises(pynvml.NVMLError_CorruptedInforom):
        pynvml.nvmlDeviceValidateInforom(gpu)
    assert pynvml.nvmlDeviceGetNvLinkState(gpu, 3) == 0
    assert pynvml.nvmlDeviceGetNvLinkState(gpu, 4) == 1
    assert _field(gpu, pynvml.NVML_FI_DEV_NVLINK_GET_STATE, scope=3).value.uiVal == 0
    assert _field(gpu, pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY, scope=2).value.ullVal == 120
    pynvml.nvmlDeviceValidateInforom(node.gpu(1))


def test_an_xid_reaches_who_listens(make_node: MakeNode) -> None:
    """An event comes for a fault after registration, of its GPU; without one the wait ends with a time-out."""
    node = make_node()
    node.state.apply("nvlink_down", gpu=0)
    node.nvml()
    events = pynvml.nvmlEventSetCreate()
    for index in range(2):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        pynvml.nvmlDeviceRegisterEvents(gpu, pynvml.nvmlEventTypeXidCriticalError, events)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(events, 20)
    node.state.apply("gpu_lost", gpu=1)
    event = pynvml.nvmlEventSetWait_v2(events, 1000)
    assert (event.eventType, event.eventData) == (pynvml.nvmlEventTypeXidCriticalError, 79)
    assert ctypes.addressof(event.device.contents) == ctypes.addressof(gpu.contents)
    pynvml.nvmlEventSetFree(events)


def test_b200_needs_a_newer_driver(make_node: MakeNode) -> None:
    """A board is not simulated on a driver that does not know it."""
    with pytest.raises(GpusimError, match="branch 570 or later"):
        make_node("B200", driver="550")
