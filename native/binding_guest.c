/*
 * Node-API: the child's side of a process that another one pages. Any JavaScript thread.
 */
#include "binding.h"

const pf_export_t pf_guest_exports[] = {
    {NULL, NULL},
};
