/*
 * Node-API: the pager, which is a Worker whose event loop watches an event descriptor. When it is written, the orders of stopped threads are
 * taken and JavaScript is called once for each, all in one callback scope, until there are none and the thread sleeps again.
 */
#include "binding.h"
#include "uv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ORDERS_A_SCOPE 64 /* orders answered at once before promises that the store left behind have their turn */
#define RELAX_MS 50 /* a pager bound to a CPU gets the others back when nobody needed it for this long */

typedef struct {
  napi_env env;
  pf_pager_t *pager;
  uint64_t id;
  int event_fd;
  napi_ref dispatch, resource;
  napi_async_context context;
  uv_handle_t *poll, *timer;
  unsigned open_handles;
  bool timing;
  bool closed;
  napi_async_cleanup_hook_handle hook;
} serving_t;

/* --- serving ---------------------------------------------------------------------------------------------------------------- */

static void refuse(serving_t *serving, const pf_order_t *order) {
  if (serving->closed || order->access == PF_ASK_HURRY) {
    return; /* the order was given up with all the others, and the pager may be another thread's by now; or it is not one */
  }
  MASKED(pf_pager_fail(serving->pager, order->slot, (pf_why_t){.code = PF_E_GONE}, "the Worker that runs the store is ending", NULL, true));
}

/* One order. False: JavaScript cannot be called any more. *later: a promise answers it. */
static bool serve_one(serving_t *serving, const pf_order_t *order, napi_value self, napi_value dispatch, bool *later) {
  napi_env env = serving->env;
  *later = false;
  for (int again = 1; again != 0;) {
    napi_value args[6], result = NULL;
    napi_create_uint32(env, order->slot, &args[0]);
    napi_create_uint32(env, order->store, &args[1]);
    napi_create_double(env, (double)order->offset, &args[2]);
    napi_create_uint32(env, order->length, &args[3]);
    napi_create_uint32(env, order->access, &args[4]);
    napi_create_double(env, (double)order->timeout_ms, &args[5]);
    int32_t answer;
    if (napi_call_function(env, self, dispatch, 6, args, &result) != napi_ok || napi_get_value_int32(env, result, &answer) != napi_ok) {
      napi_value error;
      napi_get_and_clear_last_exception(env, &error);
      refuse(serving, order);
      return false;
    }
    if (answer < -1) {
      *later = true; /* pagerComplete or pagerFail follows */
      return true;
    }
    again = pf_pager_complete(serving->pager, order->slot, answer);
  }
  return true;
}

static void relax(uv_handle_t *timer) {
  serving_t *serving = timer->data;
  if (!pf_pager_relax(serving->pager)) {
    uv_timer_stop(timer);
    serving->timing = false;
  }
}

/*
 * Orders in one callback scope, from the one given on, up to the first that a promise answers: promises settle when the scope is closed. A
 * scope for each order would be dearer than the call (about 0.3 us). False: JavaScript cannot be called any more. *more: `order` is the next one.
 */
static bool serve_some(serving_t *serving, pf_order_t *order, bool *more, napi_value resource, napi_value self, napi_value dispatch) {
  napi_env env = serving->env;
  napi_callback_scope callback_scope;
  if (dispatch == NULL || napi_open_callback_scope(env, resource, serving->context, &callback_scope) != napi_ok) {
    refuse(serving, order);
    return false;
  }
  bool alive = true, later = false;
  for (int served = 1; *more && !serving->closed; served++) {
    napi_handle_scope scope;
    if (napi_open_handle_scope(env, &scope) != napi_ok) {
      refuse(serving, order);
      alive = false;
      break;
    }
    alive = serve_one(serving, order, self, dispatch, &later);
    napi_close_handle_scope(env, scope);
    if (!alive || later || served == ORDERS_A_SCOPE) {
      break;
    }
    *more = pf_pager_next(serving->pager, order);
  }
  bool handled = *more; /* looking for the next one takes time, in which a promise could have been settled */
  napi_close_callback_scope(env, callback_scope);
  if (handled && alive && !serving->closed) {
    *more = pf_pager_next(serving->pager, order);
  }
  return alive;
}

/* Everything that waits now. */
static void drain(serving_t *serving) {
  napi_env env = serving->env;
  pf_order_t order;
  bool more = pf_pager_next(serving->pager, &order);
  while (more && !serving->closed) {
    napi_handle_scope scope;
    napi_value resource = NULL, dispatch = NULL;
    if (napi_open_handle_scope(env, &scope) != napi_ok) {
      return;
    }
    napi_get_reference_value(env, serving->resource, &resource);
    napi_get_reference_value(env, serving->dispatch, &dispatch);
    bool alive = serve_some(serving, &order, &more, resource, pf_undefined(env), dispatch);
    napi_close_handle_scope(env, scope);
    if (!alive) {
      return;
    }
  }
}

static void on_readable(uv_handle_t *handle, int status, int events) {
  (void)status;
  (void)events;
  serving_t *serving = handle->data;
  uint64_t count;
  while (read(serving->event_fd, &count, sizeof count) < 0 && errno == EINTR) {
  }
  drain(serving);
  if (!serving->timing && !serving->closed) {
    serving->timing = true;
    uv_timer_start(serving->timer, relax, RELAX_MS, RELAX_MS);
  }
}

/* --- closing ---------------------------------------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle) {
  serving_t *serving = handle->data;
  free(handle);
  if (--serving->open_handles == 0) {
    if (serving->hook != NULL) {
      napi_remove_async_cleanup_hook(serving->hook);
    }
    free(serving);
  }
}

static void stop_serving(serving_t *serving, const char *reason) {
  if (serving->closed) {
    return;
  }
  serving->closed = true;
  pf_pager_set_owner(serving->pager, NULL); /* it may be closed once more when this is freed */
  MASKED(pf_pager_kill(serving->pager, reason));
  uv_close(serving->poll, on_handle_closed); /* before its descriptor goes */
  uv_close(serving->timer, on_handle_closed);
  pf_pager_closed(serving->pager);
}

static void on_environment_end(napi_async_cleanup_hook_handle hook, void *data) {
  serving_t *serving = data;
  serving->hook = hook;
  stop_serving(serving, "the Worker that runs the store has ended");
}

/* --- exports ---------------------------------------------------------------------------------------------------------------- */

static bool watch(serving_t *serving, uv_loop_t *loop) {
  serving->poll = calloc(1, uv_handle_size(pf_uv_type("poll", UV_POLL_TYPE)));
  serving->timer = calloc(1, uv_handle_size(pf_uv_type("timer", UV_TIMER_TYPE)));
  if (serving->poll == NULL || serving->timer == NULL || uv_poll_init(loop, serving->poll, serving->event_fd) != 0) {
    free(serving->poll);
    free(serving->timer);
    return false;
  }
  uv_timer_init(loop, serving->timer);
  serving->poll->data = serving;
  serving->timer->data = serving;
  serving->open_handles = 2;
  uv_poll_start(serving->poll, UV_READABLE_EVENT, on_readable);
  uv_unref(serving->poll);
  uv_unref(serving->timer);
  return true;
}

static napi_value pager_open(napi_env env, napi_callback_info info) {
  napi_value args[1], resource = NULL;
  uv_loop_t *loop = NULL;
  pf_args(env, info, 1, args);
  serving_t *serving = calloc(1, sizeof *serving);
  if (serving == NULL || napi_get_uv_event_loop(env, (struct uv_loop_s **)&loop) != napi_ok) {
    free(serving);
    return pf_throw(env, PF_E_SYSTEM, ENOMEM, NULL, "a pager cannot be made");
  }
  int err = pf_pager_create(&serving->pager, &serving->event_fd);
  if (err != 0) {
    free(serving);
    return pf_throw(env, PF_E_SYSTEM, -err, "eventfd", "a pager cannot be made");
  }
  serving->env = env;
  serving->id = pf_pager_id(serving->pager);
  if (!watch(serving, loop)) {
    pf_pager_kill(serving->pager, "the event loop refused it");
    pf_pager_closed(serving->pager);
    free(serving);
    return pf_throw(env, PF_E_SYSTEM, 0, NULL, "the event loop refuses the pager's descriptor");
  }
  napi_create_object(env, &resource);
  napi_create_reference(env, resource, 1, &serving->resource);
  napi_create_reference(env, args[0], 1, &serving->dispatch);
  napi_async_init(env, resource, pf_from_text(env, "pagefault pager"), &serving->context);
  napi_add_async_cleanup_hook(env, on_environment_end, serving, &serving->hook);
  pf_pager_set_owner(serving->pager, serving);
  return pf_from_number(env, (double)serving->id);
}

static pf_pager_t *own_pager(napi_env env, napi_value id) {
  pf_pager_t *pager = pf_pager_by_id(pf_number(env, id));
  if (pager == NULL || !pf_pager_is_mine(pager)) {
    napi_throw_error(env, "ERR_PAGEFAULT_STORE_GONE", "not a pager of this thread");
    return NULL;
  }
  return pager;
}

static void free_buffer(napi_env env, void *data, void *hint) {
  (void)env;
  pf_mem_unmap(data, (size_t)(uintptr_t)hint);
}

static napi_value pager_buffer(napi_env env, napi_callback_info info) {
  napi_value args[3], buffer = NULL;
  pf_args(env, info, 3, args);
  pf_pager_t *pager = own_pager(env, args[0]);
  uint32_t slot = (uint32_t)pf_number(env, args[1]);
  size_t len = pf_number(env, args[2]), page = pf_os_page_size();
  if (pager == NULL) {
    return NULL;
  }
  if (slot >= PF_PAGER_SLOTS || len == 0 || len > (size_t)1 << PF_PAGE_SHIFT_MAX) {
    napi_throw_range_error(env, NULL, "pagerBuffer: no such slot or length");
    return NULL;
  }
  len = (len + page - 1) / page * page;
  size_t rounded = page;
  while (rounded < len) {
    rounded *= 2; /* a store's last page is short, its buffer is a whole page all the same */
  }
  void *bytes;
  int err = pf_mem_reserve(rounded, "pagefault pager", &bytes);
  if (err != 0) {
    return pf_throw(env, PF_E_NO_MEMORY, -err, "mmap", "no room for a page's buffer");
  }
  if (napi_create_external_arraybuffer(env, bytes, rounded, free_buffer, (void *)(uintptr_t)rounded, &buffer) != napi_ok) {
    pf_mem_unmap(bytes, rounded);
    return pf_throw(env, PF_E_SYSTEM, 0, NULL, "this runtime does not allow external ArrayBuffers");
  }
  pf_pager_set_buffer(pager, slot, bytes, rounded);
  return buffer;
}

static napi_value pager_fetch(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  pf_pager_t *pager = own_pager(env, args[0]);
  uint32_t slot = (uint32_t)pf_number(env, args[1]);
  if (pager == NULL || slot >= PF_PAGER_SLOTS) {
    return NULL;
  }
  int64_t copied;
  MASKED(copied = pf_pager_fetch(pager, slot));
  return pf_from_number(env, (double)copied);
}

static napi_value pager_given_up(napi_env env, napi_callback_info info) {
  napi_value args[2], result = NULL;
  pf_args(env, info, 2, args);
  pf_pager_t *pager = own_pager(env, args[0]);
  uint32_t slot = (uint32_t)pf_number(env, args[1]);
  if (pager == NULL) {
    return NULL;
  }
  napi_get_boolean(env, slot < PF_PAGER_SLOTS && pf_pager_given_up(pager, slot), &result);
  return result;
}

static napi_value pager_complete(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  pf_pager_t *pager = own_pager(env, args[0]);
  uint32_t slot = (uint32_t)pf_number(env, args[1]);
  if (pager == NULL || slot >= PF_PAGER_SLOTS) {
    return NULL;
  }
  return pf_from_number(env, pf_pager_complete(pager, slot, pf_integer(env, args[2])));
}

static pf_code_t code_named(const char *name) {
  for (pf_code_t code = PF_OK + 1; code < PF_E_COUNT; code++) {
    if (strcmp(pf_code_name(code), name) == 0) {
      return code;
    }
  }
  return PF_E_STORE;
}

static napi_value pager_fail(napi_env env, napi_callback_info info) {
  napi_value args[6];
  char code[40], message[PF_MESSAGE_MAX], cause[PF_CAUSE_MAX];
  pf_args(env, info, 6, args);
  pf_pager_t *pager = own_pager(env, args[0]);
  uint32_t slot = (uint32_t)pf_number(env, args[1]);
  if (pager == NULL || slot >= PF_PAGER_SLOTS) {
    return NULL;
  }
  pf_text(env, args[2], code, sizeof code);
  pf_text(env, args[3], message, sizeof message);
  pf_text(env, args[4], cause, sizeof cause);
  MASKED(pf_pager_fail(pager, slot, (pf_why_t){.code = code_named(code)}, message, cause, pf_boolean(env, args[5])));
  return NULL;
}

static napi_value pager_retry(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  pf_pager_t *pager = own_pager(env, args[0]);
  uint32_t slot = (uint32_t)pf_number(env, args[1]);
  if (pager != NULL && slot < PF_PAGER_SLOTS) {
    MASKED(pf_pager_count_retry(pager, slot)); /* the order may have to be given up here, under the budget's lock */
  }
  return NULL;
}

static napi_value pager_close(napi_env env, napi_callback_info info) {
  napi_value args[2];
  char reason[128];
  pf_args(env, info, 2, args);
  pf_pager_t *pager = own_pager(env, args[0]);
  serving_t *serving = pager == NULL ? NULL : pf_pager_owner(pager);
  if (serving != NULL) {
    pf_text(env, args[1], reason, sizeof reason);
    stop_serving(serving, reason);
  }
  return NULL;
}

static napi_value pager_kill(napi_env env, napi_callback_info info) {
  napi_value args[2];
  char reason[128];
  pf_args(env, info, 2, args);
  pf_pager_t *pager = pf_pager_hold_by_id(pf_number(env, args[0])); /* so that it is this one to the end */
  if (pager != NULL) {
    pf_text(env, args[1], reason, sizeof reason);
    MASKED(pf_pager_kill(pager, reason));
    pf_pager_drop(pager);
  }
  return NULL;
}

const pf_export_t pf_pager_exports[] = {
    {"pagerOpen", pager_open},         {"pagerBuffer", pager_buffer}, {"pagerFetch", pager_fetch}, {"pagerComplete", pager_complete},
    {"pagerGivenUp", pager_given_up},
    {"pagerFail", pager_fail},         {"pagerRetry", pager_retry},   {"pagerClose", pager_close}, {"pagerKill", pager_kill},
    {NULL, NULL},
};
