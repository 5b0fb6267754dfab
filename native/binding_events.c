/* What the core tells JavaScript of now and then: pages that failed, and pages that are late. Each thread asks for what it has not been told yet. */
#include "binding.h"

#define MOST 64

/* The region's next record after `serial`, as an object. NULL: there is none. */
typedef napi_value (*next_t)(napi_env env, const pf_region_t *region, uint64_t id, uint64_t serial, uint64_t *found);

static napi_value next_failure(napi_env env, const pf_region_t *region, uint64_t id, uint64_t serial, uint64_t *found) {
  pf_failure_t failure;
  bool any;
  MASKED(any = pf_failure_next(id, serial, &failure));
  if (!any) {
    return NULL;
  }
  *found = failure.serial;
  napi_value object = pf_failure_object(env, &failure);
  pf_set(env, object, "serial", pf_from_number(env, (double)failure.serial));
  pf_set(env, object, "store", pf_from_text(env, region->store_name));
  return object;
}

static napi_value next_stall(napi_env env, const pf_region_t *region, uint64_t id, uint64_t serial, uint64_t *found) {
  pf_stall_t stall;
  bool any;
  MASKED(any = pf_stall_next(id, serial, &stall));
  if (!any) {
    return NULL;
  }
  *found = stall.serial;
  napi_value object = NULL;
  napi_create_object(env, &object);
  pf_set(env, object, "serial", pf_from_number(env, (double)stall.serial));
  pf_set(env, object, "offset", pf_from_number(env, (double)(stall.page << region->page_shift)));
  pf_set(env, object, "page", pf_from_number(env, (double)stall.page));
  pf_set(env, object, "waitedMs", pf_from_number(env, (double)(stall.waited_ns / 1000000)));
  pf_set(env, object, "threadId", pf_from_number(env, stall.tid));
  pf_set(env, object, "store", pf_from_text(env, region->store_name));
  pf_set(env, object, "doing", pf_from_text(env, stall.doing));
  return object;
}

static napi_value take(napi_env env, napi_callback_info info, next_t next) {
  napi_value args[2], list = NULL;
  pf_args(env, info, 2, args);
  napi_create_array(env, &list);
  uint64_t id = pf_number(env, args[0]), serial = pf_number(env, args[1]);
  pf_region_t *region = pf_region_by_id(id);
  for (uint32_t i = 0; region != NULL && i < MOST; i++) {
    napi_value object = next(env, region, id, serial, &serial);
    if (object == NULL) {
      break;
    }
    napi_set_element(env, list, i, object);
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
  return list;
}

static napi_value region_take_failures(napi_env env, napi_callback_info info) { return take(env, info, next_failure); }
static napi_value region_take_stalls(napi_env env, napi_callback_info info) { return take(env, info, next_stall); }

static napi_value event_serials(napi_env env, napi_callback_info info) {
  napi_value out = NULL;
  uint64_t failures, stalls;
  (void)info;
  MASKED(failures = pf_failure_serial());
  MASKED(stalls = pf_stall_serial());
  napi_create_object(env, &out);
  pf_set(env, out, "failures", pf_from_number(env, (double)failures));
  pf_set(env, out, "stalls", pf_from_number(env, (double)stalls));
  return out;
}

static void javascript_ended(void *unused) {
  (void)unused;
  pf_watchdog_javascript(false);
}

void pf_events_begin(napi_env env) {
  pf_watchdog_javascript(true);
  napi_add_env_cleanup_hook(env, javascript_ended, env); /* of its own: we may be loaded more than once in a thread, and Node ends the process where two are alike */
}

const pf_export_t pf_event_exports[] = {
    {"regionTakeFailures", region_take_failures},
    {"regionTakeStalls", region_take_stalls},
    {"eventSerials", event_serials},
    {NULL, NULL},
};
