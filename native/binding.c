/*
 * Node-API: the module, conversions, errors, probing, budgets, attempts. One static library state serves every thread that loads it; the
 * shared object is linked with -z nodelete, because handlers of ours stay installed when the Worker that loaded it first has ended.
 */
#include "binding.h"
#include "uv.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>

/* --- conversions --------------------------------------------------------------------------------------------------------- */

bool pf_args(napi_env env, napi_callback_info info, size_t count, napi_value *args) {
  return napi_get_cb_info(env, info, &count, args, NULL, NULL) == napi_ok;
}

int64_t pf_integer(napi_env env, napi_value value) {
  int64_t number = 0;
  napi_get_value_int64(env, value, &number);
  return number;
}

uint64_t pf_number(napi_env env, napi_value value) {
  int64_t number = pf_integer(env, value);
  return number < 0 ? 0 : (uint64_t)number;
}

bool pf_boolean(napi_env env, napi_value value) {
  bool truth = false;
  napi_get_value_bool(env, value, &truth);
  return truth;
}

bool pf_is_function(napi_env env, napi_value value) {
  napi_valuetype type;
  return napi_typeof(env, value, &type) == napi_ok && type == napi_function;
}

napi_value pf_from_number(napi_env env, double number) {
  napi_value value = NULL;
  napi_create_double(env, number, &value);
  return value;
}

napi_value pf_from_text(napi_env env, const char *text) {
  napi_value value = NULL;
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &value);
  return value;
}

napi_value pf_undefined(napi_env env) {
  napi_value value = NULL;
  napi_get_undefined(env, &value);
  return value;
}

napi_value pf_property(napi_env env, napi_value object, const char *name) {
  napi_value value = NULL;
  if (napi_get_named_property(env, object, name, &value) != napi_ok) {
    return pf_undefined(env);
  }
  return value;
}

void pf_set(napi_env env, napi_value object, const char *name, napi_value value) { napi_set_named_property(env, object, name, value); }

void pf_text(napi_env env, napi_value value, char *out, size_t size) {
  size_t len = 0;
  out[0] = '\0';
  napi_get_value_string_utf8(env, value, out, size, &len);
}

bool pf_bytes(napi_env env, napi_value value, uint8_t **bytes, size_t *len) {
  napi_typedarray_type type; /* the call itself refuses what is no typed array */
  void *data = NULL;
  if (napi_get_typedarray_info(env, value, &type, len, &data, NULL, NULL) != napi_ok || type != napi_uint8_array) {
    return false;
  }
  *bytes = data;
  return true;
}

void *pf_elements(napi_env env, napi_value value, napi_typedarray_type wanted, size_t least) {
  napi_typedarray_type type;
  size_t len;
  void *data;
  if (napi_get_typedarray_info(env, value, &type, &len, &data, NULL, NULL) != napi_ok || type != wanted || len < least) {
    return NULL;
  }
  return data;
}

bool pf_address(napi_env env, napi_value value, uint64_t *out) {
  bool lossless = false;
  return napi_get_value_bigint_uint64(env, value, out, &lossless) == napi_ok && lossless;
}

/* --- errors -------------------------------------------------------------------------------------------------------------- */

static napi_value make_error(napi_env env, pf_code_t code, int err, const char *message) {
  napi_value error = NULL;
  napi_create_error(env, pf_from_text(env, pf_code_name(code)), pf_from_text(env, message), &error);
  if (err != 0) {
    pf_set(env, error, "errno", pf_from_number(env, err));
  }
  return error;
}

napi_value pf_throw(napi_env env, pf_code_t code, int err, const char *syscall, const char *message) {
  char text[PF_MESSAGE_MAX];
  if (err != 0) {
    snprintf(text, sizeof text, "%s (%s: %s)", message, syscall != NULL ? syscall : "errno", strerror(err));
    message = text;
  }
  napi_value error = make_error(env, code, err, message);
  if (syscall != NULL) {
    pf_set(env, error, "syscall", pf_from_text(env, syscall));
  }
  napi_throw(env, error);
  return NULL;
}

napi_value pf_throw_code(napi_env env, const char *code, const char *message) {
  napi_value error = NULL;
  napi_create_error(env, pf_from_text(env, code), pf_from_text(env, message), &error);
  napi_throw(env, error);
  return NULL;
}

napi_value pf_failure_object(napi_env env, const pf_failure_t *failure) {
  napi_value object = NULL;
  napi_create_object(env, &object);
  pf_set(env, object, "region", pf_from_number(env, (double)failure->region));
  pf_set(env, object, "offset", pf_from_number(env, (double)failure->offset));
  pf_set(env, object, "code", pf_from_text(env, pf_code_name(failure->why.code)));
  pf_set(env, object, "errno", pf_from_number(env, failure->why.err));
  pf_set(env, object, "message", pf_from_text(env, failure->message));
  pf_set(env, object, "cause", pf_from_text(env, failure->cause));
  return object;
}

napi_value pf_throw_page(napi_env env, const pf_region_t *region, uint64_t page, pf_why_t why) {
  pf_failure_t failure;
  MASKED(pf_failure_of(region, page, why, &failure));
  napi_value error = make_error(env, failure.why.code, failure.why.err, failure.message);
  pf_set(env, error, "failure", pf_failure_object(env, &failure));
  napi_throw(env, error);
  return NULL;
}

pf_region_t *pf_open_region(napi_env env, napi_value id) {
  pf_region_t *region = pf_region_by_id(pf_number(env, id));
  if (region != NULL && atomic_load(&region->phase) == PF_PHASE_OPEN) {
    return region;
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
  pf_throw(env, PF_E_CLOSED, 0, NULL, "segment closed");
  return NULL;
}

/* --- libuv ----------------------------------------------------------------------------------------------------------------- */

int pf_uv_type(const char *name, int guess) {
  const char *known = uv_handle_type_name(guess);
  if (known != NULL && strcmp(known, name) == 0) {
    return guess;
  }
  for (int type = 1; type < 32; type++) {
    known = uv_handle_type_name(type);
    if (known != NULL && strcmp(known, name) == 0) {
      return type;
    }
  }
  return guess;
}

/* --- probing ------------------------------------------------------------------------------------------------------------- */

pf_create_shared_t pf_create_shared(void) {
  pf_create_shared_t function;
  void *symbol = dlsym(RTLD_DEFAULT, "node_api_create_external_sharedarraybuffer");
  memcpy(&function, &symbol, sizeof function);
  return function;
}

/* First number after `key` in a small file of /proc; -1 if there is none. */
static double number_in(const char *path, const char *key) {
  char text[4096];
  double number = -1;
  FILE *file = fopen(path, "re");
  if (file == NULL) {
    return -1;
  }
  size_t len = fread(text, 1, sizeof text - 1, file);
  text[len] = '\0';
  const char *at = strstr(text, key);
  if (at == NULL || sscanf(at + strlen(key), "%lf", &number) != 1) {
    number = -1;
  }
  fclose(file);
  return number;
}

/* 0 when memory can be mapped twice and protected, else why not. */
static int probe_mprotect(void) {
  uint8_t *user, *ours;
  size_t page = pf_os_page_size();
  int err = pf_mem_map_twice(page, page, "pagefault probe", &user, &ours);
  if (err != 0) {
    return -err;
  }
  err = pf_mem_protect(user, page, PROT_READ);
  pf_mem_unmap_region(user, page);
  pf_mem_unmap(ours, page);
  return -err;
}

/* How backend signal would see writes. */
static pf_track_t tracking_of(int offer) {
  return offer == PF_OWN_ASYNC ? PF_TRACK_ASYNC : offer == PF_OWN_SYNC ? PF_TRACK_FAULT : PF_TRACK_NONE;
}

static const char *offered_shared(void) {
  unsigned offer = pf_own_uffd_offers_shared();
  return offer & PF_OWN_PROTECT ? "write" : offer & PF_OWN_MINOR ? "read" : "none";
}

static napi_value probe(napi_env env, napi_callback_info info) {
  (void)info;
  pf_uffd_probe_t uffd;
  struct utsname name;
  napi_value out = NULL, features = NULL, vectored = NULL, shared = NULL;
  pf_uffd_probe(&uffd);
  int offer = pf_own_uffd_offers();
  if (pf_os_is_exhausted(offer) && uffd.user_mode_errno == 0) {
    uffd.user_mode_errno = -offer;
  }
  uname(&name);
  napi_create_object(env, &out);
  napi_create_bigint_uint64(env, uffd.features, &features);
  napi_get_boolean(env, pf_mem_drops_vectored(), &vectored);
  napi_get_boolean(env, pf_create_shared() != NULL, &shared);
  double mappings = number_in("/proc/sys/vm/max_map_count", "");
  double seccomp = number_in("/proc/self/status", "Seccomp:");
  pf_set(env, out, "pageSize", pf_from_number(env, (double)pf_os_page_size()));
  pf_set(env, out, "kernel", pf_from_text(env, name.release));
  pf_set(env, out, "arch", pf_from_text(env, name.machine));
  pf_set(env, out, "userfaultfdErrno", pf_from_number(env, uffd.user_mode_errno));
  pf_set(env, out, "kernelFaultsErrno", pf_from_number(env, uffd.kernel_mode_errno));
  pf_set(env, out, "deviceErrno", pf_from_number(env, uffd.device_errno));
  pf_set(env, out, "features", features);
  bool by_device;
  pf_set(env, out, "engineErrno", pf_from_number(env, uffd.user_mode_errno == 0 ? 0 : pf_own_uffd_may(false, &by_device)));
  pf_set(env, out, "servedErrno", pf_from_number(env, pf_own_uffd_may(true, &by_device)));
  napi_value device = NULL;
  napi_get_boolean(env, by_device, &device);
  pf_set(env, out, "servedByDevice", device);
  pf_set(env, out, "maxMapCount", pf_from_number(env, mappings < 0 ? 0 : mappings));
  pf_set(env, out, "seccomp", pf_from_number(env, seccomp < 0 ? 0 : seccomp));
  pf_set(env, out, "vectoredMadvise", vectored);
  pf_set(env, out, "externalSharedArrayBuffer", shared);
  pf_set(env, out, "mprotectErrno", pf_from_number(env, probe_mprotect()));
  pf_set(env, out, "writeTracking", pf_from_text(env, pf_tracking_name(tracking_of(offer))));
  pf_set(env, out, "sharedPages", pf_from_text(env, offered_shared()));
  return out;
}

static napi_value lend_device(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, -pf_own_uffd_lend((int)pf_number(env, args[0])));
}

static napi_value take_device(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, -pf_own_uffd_take((int)pf_number(env, args[0])));
}

static napi_value system_page_size(napi_env env, napi_callback_info info) {
  (void)info;
  return pf_from_number(env, (double)pf_os_page_size());
}

/* --- budgets ------------------------------------------------------------------------------------------------------------- */

/* What the creator holds. False: it is released already. */
static bool release_budget(uint64_t id) {
  pf_budget_t *budget = pf_budget_by_id(id);
  if (budget != NULL) {
    pf_budget_drop(budget); /* ours, from looking it up */
    pf_budget_drop(budget); /* the creator's */
  }
  return budget != NULL;
}

/* The thread that made it ends: JavaScript's finalizers do not run then. */
static void budget_owner_ends(void *id) { release_budget((uint64_t)(uintptr_t)id); }

static napi_value budget_create(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_budget_t *budget;
  pf_args(env, info, 1, args);
  int err = pf_budget_create(pf_number(env, args[0]), &budget);
  if (err != 0) {
    return pf_throw(env, PF_E_SYSTEM, -err, "mmap", "no room for the queue of a budget");
  }
  napi_add_env_cleanup_hook(env, budget_owner_ends, (void *)(uintptr_t)pf_budget_id(budget));
  return pf_from_number(env, (double)pf_budget_id(budget));
}

static napi_value budget_release(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  uint64_t id = (uint64_t)pf_number(env, args[0]);
  if (release_budget(id)) {
    napi_remove_env_cleanup_hook(env, budget_owner_ends, (void *)(uintptr_t)id);
  }
  return NULL;
}

static napi_value budget_stats(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  pf_budget_t *budget = pf_budget_by_id(pf_number(env, args[0]));
  if (budget == NULL) {
    return pf_throw(env, PF_E_CLOSED, 0, NULL, "budget released");
  }
  double *out = pf_elements(env, args[1], napi_float64_array, 5);
  if (out != NULL) {
    pf_budget_numbers_t numbers;
    pf_budget_numbers(budget, &numbers);
    out[0] = (double)numbers.used;
    out[1] = (double)numbers.limit;
    out[2] = (double)numbers.resident;
    out[3] = (double)numbers.staged;
    out[4] = (double)numbers.pinned;
  }
  pf_budget_drop(budget);
  return NULL;
}

/* --- attempts, exit, census ------------------------------------------------------------------------------------------------- */

static napi_value attempt_begin(napi_env env, napi_callback_info info) {
  (void)info;
  int err = pf_attempt_begin();
  return err == 0 ? NULL : pf_throw(env, PF_E_SYSTEM, -err, "sigaction", "attempt cannot begin");
}

static napi_value attempt_end(napi_env env, napi_callback_info info) {
  (void)info;
  pf_failure_t failure;
  bool failed;
  failed = pf_attempt_end(&failure);
  napi_value null_value = NULL;
  napi_get_null(env, &null_value);
  return failed ? pf_failure_object(env, &failure) : null_value;
}

static napi_value exiting(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  pf_exiting((int)pf_integer(env, args[0]));
  return NULL;
}

static napi_value core(napi_env env, napi_callback_info info) {
  static const char own;
  napi_value address = NULL;
  (void)info;
  napi_create_bigint_uint64(env, (uint64_t)(uintptr_t)&own, &address);
  return address;
}

static napi_value check_handlers(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  if (pf_boolean(env, args[0])) {
    pf_signal_check();
  }
  return pf_from_number(env, (double)pf_signal_reinstalls());
}

static napi_value forwarded_signals(napi_env env, napi_callback_info info) {
  (void)info;
  return pf_from_number(env, (double)pf_signal_forwarded());
}

static napi_value poll_interval(napi_env env, napi_callback_info info) {
  (void)info;
  return pf_from_number(env, (double)pf_guard_interval_now() / 1e6);
}

static napi_value overhead_bytes(napi_env env, napi_callback_info info) {
  (void)info;
  return pf_from_number(env, (double)pf_scratch_bytes());
}

static napi_value census(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value out = NULL;
  napi_create_object(env, &out);
  pf_region_reap();
  pf_set(env, out, "regions", pf_from_number(env, pf_region_count()));
  pf_set(env, out, "buffers", pf_from_number(env, pf_scratch_count()));
  pf_set(env, out, "descriptors", pf_from_number(env, pf_os_descriptors() + pf_pager_descriptors()));
  pf_set(env, out, "budgets", pf_from_number(env, pf_budget_count()));
  pf_set(env, out, "threads", pf_from_number(env, pf_loader_threads()));
  return out;
}

static const pf_export_t own_exports[] = {
    {"probe", probe},
    {"lendDevice", lend_device},
    {"takeDevice", take_device},
    {"systemPageSize", system_page_size},
    {"core", core},
    {"budgetCreate", budget_create},
    {"budgetRelease", budget_release},
    {"budgetStats", budget_stats},
    {"attemptBegin", attempt_begin},
    {"attemptEnd", attempt_end},
    {"exiting", exiting},
    {"checkHandlers", check_handlers},
    {"forwardedSignals", forwarded_signals},
    {"pollInterval", poll_interval},
    {"overheadBytes", overhead_bytes},
    {"census", census},
    {NULL, NULL},
};

NAPI_MODULE_INIT() {
  pf_exit_tell(pf_report_unflushed);
  const pf_export_t *families[] = {
      own_exports,      pf_region_exports,  pf_load_exports,    pf_touched_exports, pf_write_exports, pf_pager_exports,  pf_uffd_exports,
      pf_mapping_exports, pf_process_exports, pf_watch_exports, pf_guest_exports, pf_peer_exports, pf_memory_exports,
      pf_shared_exports, pf_event_exports,
      pf_hold_exports,
  };
  pf_events_begin(env);
  for (size_t family = 0; family < sizeof families / sizeof *families; family++) {
    for (const pf_export_t *entry = families[family]; entry->name != NULL; entry++) {
      napi_value function = NULL;
      napi_create_function(env, entry->name, NAPI_AUTO_LENGTH, entry->function, NULL, &function);
      pf_set(env, exports, entry->name, function);
    }
  }
  return exports;
}
