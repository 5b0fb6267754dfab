/* Node-API: the order in which the pages of a region were first needed. Loading them ahead is in binding_load.c, as every job. */
#include "binding.h"
#include "touched.h"

#include <errno.h>

static napi_value region_record(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  int err = pf_touched_start(region, (uint32_t)pf_number(env, args[1]));
  pf_region_leave(region);
  return err == 0 ? NULL : pf_throw(env, err == -ENOMEM ? PF_E_NO_MEMORY : PF_E_SYSTEM, -err, "mmap", "the order of first touch cannot be noted");
}

/* An ArrayBuffer with a view over all of it; *data: its bytes. NULL: something was thrown. */
static napi_value make_elements(napi_env env, napi_typedarray_type type, size_t count, size_t size, void **data) {
  napi_value buffer = NULL, view = NULL;
  if (napi_create_arraybuffer(env, count * size, data, &buffer) == napi_ok) {
    napi_create_typedarray(env, type, count, buffer, 0, &view);
  }
  return view;
}

static napi_value region_touched(napi_env env, napi_callback_info info) {
  napi_value args[1], result = NULL;
  pf_args(env, info, 1, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint32_t count = pf_touched_count(region);
  uint64_t missed = 0;
  void *numbers, *times;
  napi_value pages = make_elements(env, napi_uint32_array, count, sizeof(uint32_t), &numbers);
  napi_value at_us = pages == NULL ? NULL : make_elements(env, napi_float64_array, count, sizeof(double), &times);
  if (at_us != NULL) {
    count = count == 0 ? 0 : pf_touched_read(region, numbers, times, count, &missed);
    napi_create_object(env, &result);
    pf_set(env, result, "count", pf_from_number(env, count));
    pf_set(env, result, "missed", pf_from_number(env, (double)missed));
    pf_set(env, result, "pages", pages);
    pf_set(env, result, "atUs", at_us);
  }
  pf_region_leave(region);
  return result;
}

const pf_export_t pf_touched_exports[] = {
    {"regionRecord", region_record},
    {"regionTouched", region_touched},
    {NULL, NULL},
};
