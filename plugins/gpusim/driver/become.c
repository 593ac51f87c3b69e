/* Preloaded by a simulated node's sudo: who became root there hears that it is root, whoever runs the simulation. */
#include <unistd.h>

uid_t getuid(void) { return 0; }

uid_t geteuid(void) { return 0; }
