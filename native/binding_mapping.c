/*
 * Node-API: mappings, memory objects, PAGEMAP_SCAN. Any JavaScript thread. Converts, and throws nothing but what the runtime itself throws.
 */
#include "binding.h"
#include "mapping.h"

#include <errno.h>

/* An address that TypeScript has checked. */
static uint64_t address_of(napi_env env, napi_value value) {
  uint64_t address = 0;
  pf_address(env, value, &address);
  return address;
}

static uint64_t *words_of(napi_env env, napi_value value, size_t least) {
  return pf_elements(env, value, napi_biguint64_array, least);
}

/* --- mappings ------------------------------------------------------------------------------------------------------------ */

static napi_value memory_map(napi_env env, napi_callback_info info) {
  napi_value args[7];
  pf_args(env, info, 7, args);
  uint64_t *out = words_of(env, args[6], 1);
  if (out == NULL) {
    return pf_from_number(env, -EINVAL);
  }
  return pf_from_number(env, pf_mapping_map(address_of(env, args[0]), pf_number(env, args[1]), (int)pf_integer(env, args[2]),
                                            (int)pf_integer(env, args[3]), (int)pf_integer(env, args[4]), pf_number(env, args[5]), out));
}

static napi_value memory_unmap(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  return pf_from_number(env, pf_mapping_unmap(address_of(env, args[0]), pf_number(env, args[1])));
}

static napi_value memory_protect(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  return pf_from_number(env, pf_mapping_protect(address_of(env, args[0]), pf_number(env, args[1]), (int)pf_integer(env, args[2])));
}

static napi_value memory_advise(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  return pf_from_number(env, pf_mapping_advise(address_of(env, args[0]), pf_number(env, args[1]), (int)pf_integer(env, args[2])));
}

static napi_value memory_exists(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  return pf_from_number(env, pf_mapping_exists(address_of(env, args[0]), pf_number(env, args[1])));
}

static napi_value memory_from_malloc(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  uint64_t *out = words_of(env, args[1], 1);
  return pf_from_number(env, out == NULL ? -EINVAL : pf_mapping_from_malloc(pf_number(env, args[0]), out));
}

static napi_value memory_free(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  return pf_from_number(env, pf_mapping_free(address_of(env, args[0]), pf_number(env, args[1])));
}

static napi_value memory_grow_break(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  uint64_t *out = words_of(env, args[1], 1);
  return pf_from_number(env, out == NULL ? -EINVAL : pf_mapping_grow_break(pf_number(env, args[0]), out));
}

/* Without a finalizer: the memory is whoever mapped it's. The runtime keeps no table of external ArrayBuffers, so that there may be any
 * number over one address. */
static napi_value memory_buffer(napi_env env, napi_callback_info info) {
  napi_value args[2], buffer = NULL;
  pf_args(env, info, 2, args);
  void *data = (void *)(uintptr_t)address_of(env, args[0]);
  napi_status status = napi_create_external_arraybuffer(env, data, (size_t)pf_number(env, args[1]), NULL, NULL, &buffer);
  if (status != napi_ok && status != napi_pending_exception) {
    return pf_throw(env, PF_E_SYSTEM, 0, NULL,
                    status == napi_no_external_buffers_allowed ? "this runtime does not allow external ArrayBuffers"
                                                               : "the runtime cannot make an ArrayBuffer of this length");
  }
  return status == napi_ok ? buffer : NULL;
}

static napi_value memory_detach(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  napi_detach_arraybuffer(env, args[0]);
  return NULL;
}

/* --- memory objects ------------------------------------------------------------------------------------------------------ */

static napi_value memfd_create_named(napi_env env, napi_callback_info info) {
  napi_value args[2];
  char name[256]; /* the kernel takes 249 bytes */
  pf_args(env, info, 2, args);
  pf_text(env, args[0], name, sizeof name);
  return pf_from_number(env, pf_memfd_create(name, (unsigned)pf_number(env, args[1])));
}

static napi_value memfd_seals(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_memfd_seals((int)pf_integer(env, args[0])));
}

static napi_value memfd_add_seals(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  return pf_from_number(env, pf_memfd_add_seals((int)pf_integer(env, args[0]), (unsigned)pf_number(env, args[1])));
}

static napi_value memfd_punch(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  return pf_from_number(env, pf_memfd_punch((int)pf_integer(env, args[0]), pf_number(env, args[1]), pf_number(env, args[2])));
}

static napi_value memfd_huge_page_size(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, (double)pf_memfd_huge_page_size((int)pf_integer(env, args[0])));
}

/* --- the page map -------------------------------------------------------------------------------------------------------- */

static napi_value pagemap_open(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_pagemap_open((int)pf_integer(env, args[0])));
}

static napi_value pagemap_scan(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  uint64_t *query = words_of(env, args[1], 8), *regions = words_of(env, args[2], 3);
  size_t len = 0;
  if (query == NULL || regions == NULL) {
    return pf_from_number(env, -EINVAL);
  }
  napi_get_typedarray_info(env, args[2], NULL, &len, NULL, NULL, NULL);
  pf_pagemap_query_t asked = {
      .flags = query[2], .inverted = query[3], .mask = query[4], .anyof = query[5], .report = query[6], .max_pages = query[7]};
  return pf_from_number(env, pf_pagemap_scan((int)pf_integer(env, args[0]), query[0], query[1], &asked, (pf_pagemap_region_t *)regions,
                                             len / 3, &query[0]));
}

const pf_export_t pf_mapping_exports[] = {
    {"memoryMap", memory_map},
    {"memoryUnmap", memory_unmap},
    {"memoryProtect", memory_protect},
    {"memoryAdvise", memory_advise},
    {"memoryExists", memory_exists},
    {"memoryFromMalloc", memory_from_malloc},
    {"memoryFree", memory_free},
    {"memoryGrowBreak", memory_grow_break},
    {"memoryBuffer", memory_buffer},
    {"memoryDetach", memory_detach},
    {"memfdCreate", memfd_create_named},
    {"memfdSeals", memfd_seals},
    {"memfdAddSeals", memfd_add_seals},
    {"memfdPunch", memfd_punch},
    {"memfdHugePageSize", memfd_huge_page_size},
    {"pagemapOpen", pagemap_open},
    {"pagemapScan", pagemap_scan},
    {NULL, NULL},
};
