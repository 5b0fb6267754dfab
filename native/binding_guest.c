/*
 * Node-API: the child's side of a process that another one pages. All of it is include/pagefault_guest.h; a process has one connection,
 * whichever of its JavaScript threads asks first. Any JavaScript thread.
 */
#include "binding.h"

#include "../include/pagefault_guest.h"

static pagefault_guest guest;
static pthread_mutex_t connecting = PTHREAD_MUTEX_INITIALIZER;
static bool asked;  /* with the lock */
static int outcome; /* of connecting, once asked */

static bool is_expected(void) {
  pthread_mutex_lock(&connecting);
  bool expected = !asked && getenv(PAGEFAULT_GUEST_VARIABLE) != NULL;
  pthread_mutex_unlock(&connecting);
  return expected;
}

static napi_value guest_is_expected(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value result = NULL;
  napi_get_boolean(env, is_expected(), &result);
  return result;
}

/* Without a variable nothing is remembered, so that a process that is not paged can be asked again. */
static napi_value guest_connect(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  double *out = pf_elements(env, args[0], napi_float64_array, 2);
  if (out == NULL) {
    return pf_from_number(env, -EINVAL);
  }
  pthread_mutex_lock(&connecting);
  if (!asked) {
    outcome = pagefault_guest_connect(&guest);
    asked = outcome != -ENOENT;
  }
  int result = outcome;
  pthread_mutex_unlock(&connecting);
  if (result == 0) {
    out[0] = (double)pagefault_guest_store_length(&guest);
    out[1] = (double)pagefault_guest_page_size(&guest);
  }
  return pf_from_number(env, result);
}

static napi_value guest_page(napi_env env, napi_callback_info info) {
  napi_value args[5];
  uint64_t address = 0;
  pagefault_guest_stage stage;
  pf_args(env, info, 5, args);
  double *out = pf_elements(env, args[4], napi_float64_array, 2);
  if (out == NULL || !pf_address(env, args[0], &address)) {
    return pf_from_number(env, -EINVAL);
  }
  void *memory = (void *)(uintptr_t)address;
  unsigned flags = (unsigned)pf_number(env, args[3]);
  int err = pagefault_guest_page_at(&guest, memory, pf_number(env, args[1]), pf_number(env, args[2]), flags, &stage);
  out[0] = stage;
  out[1] = err == 0 ? pagefault_guest_user_mode_only(&guest, memory) : 0;
  return pf_from_number(env, err);
}

const pf_export_t pf_guest_exports[] = {
    {"guestIsExpected", guest_is_expected},
    {"guestConnect", guest_connect},
    {"guestPage", guest_page},
    {NULL, NULL},
};
