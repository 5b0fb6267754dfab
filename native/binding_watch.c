/*
 * Node-API: a descriptor on the event loop: a callback when it is readable. The thread that made it.
 */
#include "binding.h"

const pf_export_t pf_watch_exports[] = {
    {NULL, NULL},
};
