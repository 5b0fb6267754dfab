/*
 * Node-API: userfaultfd(2), call by call: descriptors and addresses are the caller's. Any JavaScript thread.
 */
#include "binding.h"

const pf_export_t pf_uffd_exports[] = {
    {NULL, NULL},
};
