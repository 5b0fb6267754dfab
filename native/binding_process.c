/*
 * Node-API: descriptors over Unix sockets, pidfds, signalfds, memory of other processes. Any JavaScript thread.
 */
#include "binding.h"

const pf_export_t pf_process_exports[] = {
    {NULL, NULL},
};
