/*
 * Node-API: mappings, memory objects, PAGEMAP_SCAN. Any JavaScript thread.
 */
#include "binding.h"

const pf_export_t pf_mapping_exports[] = {
    {NULL, NULL},
};
