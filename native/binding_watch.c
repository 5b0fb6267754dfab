/*
 * Node-API: a descriptor on the event loop: a callback when it is readable. Everything runs on the thread that made the watch; the list
 * of all watches is the only thing that threads share, and has a lock of its own, under which nothing is called.
 *
 *   watchStart ──▶ WATCHING ──▶ watchStop, or the environment ends ──▶ CLOSING (never called again) ──▶ on_closed: freed
 */
#include "binding.h"
#include "os.h"
#include "process.h"
#include "uv.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXTRA_ROUNDS 3      /* calls that one turn of the loop may make beyond the first, while the descriptor is readable again */
#define BUSY_TURN_NS 2000000 /* how long a busy watch may keep the loop from its other handles */
#define LEAST_WINDOW_NS 4000 /* looking for less than that is not worth a system call */

typedef struct pf_watch {
  napi_env env;
  double id;
  int fd;
  napi_ref callback, resource, buffer;
  napi_async_context context;
  uv_handle_t *poll;
  bool closed;
  uint64_t busy_ns;   /* how long it may look again before it sleeps; 0: not at all */
  uint64_t window_ns; /* how long it does now */
  uint64_t slept_at;  /* when it last gave up looking */
  uint64_t found_at;  /* when it was found readable */
  uint8_t *messages;  /* where it reads to by itself, or NULL */
  size_t room;
  int got; /* bytes read, or -errno */
  napi_async_cleanup_hook_handle hook;
  struct pf_watch *next, **link; /* in `watches`, under `lock` */
} watch_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static watch_t *watches;
static double last_id;
static _Thread_local unsigned busy_watches; /* of this thread: one that looks for long would let the others wait */

static void list_add(watch_t *watch) {
  pthread_mutex_lock(&lock);
  watch->id = ++last_id;
  watch->next = watches;
  watch->link = &watches;
  if (watches != NULL) {
    watches->link = &watch->next;
  }
  watches = watch;
  pthread_mutex_unlock(&lock);
}

static void list_remove(watch_t *watch) {
  pthread_mutex_lock(&lock);
  *watch->link = watch->next;
  if (watch->next != NULL) {
    watch->next->link = watch->link;
  }
  pthread_mutex_unlock(&lock);
}

/* A watch of this thread that goes on, or NULL. Only its own thread ends it, so it stays valid. */
static watch_t *own_watch(napi_env env, napi_value value) {
  double id = 0;
  napi_get_value_double(env, value, &id);
  pthread_mutex_lock(&lock);
  watch_t *watch = watches;
  while (watch != NULL && (watch->id != id || watch->env != env)) {
    watch = watch->next;
  }
  pthread_mutex_unlock(&lock);
  return watch;
}

/* --- calling back ---------------------------------------------------------------------------------------------------------- */

/*
 * True: there is something for the callback, at watch->found_at. A watch that reads has read it by then: one system call less on the way of
 * each message than to be told and to read. An error of the read is something, too.
 */
static bool look(watch_t *watch) {
  watch->found_at = pf_now_ns();
  if (watch->messages == NULL) {
    return pf_is_readable(watch->fd) != 0;
  }
  watch->got = (int)pf_uffd_read_now(watch->fd, watch->messages, watch->room);
  return watch->got != -EAGAIN;
}

/* False: JavaScript cannot be called any more. An exception is an uncaught one, as in every callback of Node; the watch goes on. */
static bool call_once(watch_t *watch, napi_value self, napi_value callback) {
  napi_env env = watch->env;
  napi_value args[] = {pf_from_number(env, (double)watch->found_at / 1e6), NULL};
  napi_create_int32(env, watch->got, &args[1]);
  napi_status status = napi_call_function(env, self, callback, 2, args, NULL);
  if (status == napi_pending_exception) {
    napi_value error = NULL;
    napi_get_and_clear_last_exception(env, &error);
    status = napi_fatal_exception(env, error);
  }
  return status == napi_ok;
}

/*
 * Busy polling, as long as it pays: to be woken on an idle CPU takes tens of microseconds in a virtual machine. A message that came soon
 * after we went to sleep would have been caught: look for the whole time again. Each time that nothing came, look for half as long.
 */
static void woke(watch_t *watch, uint64_t now) {
  if (watch->busy_ns != 0 && busy_watches == 1 && now - watch->slept_at < 2 * watch->busy_ns) {
    watch->window_ns = watch->busy_ns;
  }
}

static bool look_long(watch_t *watch) {
  uint64_t until = pf_now_ns() + watch->window_ns;
  do {
    sched_yield();
    if (look(watch)) {
      return true;
    }
  } while (pf_now_ns() < until);
  watch->window_ns /= 2;
  if (watch->window_ns < LEAST_WINDOW_NS) {
    watch->window_ns = 0;
  }
  return false;
}

/* Calls back, and again while there is more. What the callback has promised is done (its microtasks run) before anything is waited for. */
static void call_while_readable(watch_t *watch, napi_value resource, napi_value self, napi_value callback) {
  napi_env env = watch->env;
  napi_callback_scope scope;
  uint64_t turn_end = watch->found_at + BUSY_TURN_NS;
  if (napi_open_callback_scope(env, resource, watch->context, &scope) != napi_ok) {
    return;
  }
  for (int round = 0; call_once(watch, self, callback) && !watch->closed; round++) {
    if (watch->window_ns == 0 ? round >= EXTRA_ROUNDS : pf_now_ns() >= turn_end) {
      break;
    }
    if (look(watch)) { /* a peer on this CPU may have run, and have its next message ready, before the callback returned */
      continue;
    }
    sched_yield(); /* or it runs now */
    if (look(watch)) {
      continue;
    }
    if (watch->window_ns == 0) {
      break;
    }
    napi_close_callback_scope(env, scope);
    bool found = !watch->closed && look_long(watch);
    if (napi_open_callback_scope(env, resource, watch->context, &scope) != napi_ok) {
      return;
    }
    if (!found) {
      break;
    }
  }
  napi_close_callback_scope(env, scope);
}

/* POLLERR and POLLHUP come here too: what is wrong is told by the read. For POLLERR libuv has stopped the handle. The handle is freed by
 * the loop only after this has returned, so `watch` is valid to the end. */
static void on_readable(uv_handle_t *handle, int status, int events) {
  (void)events;
  watch_t *watch = handle->data;
  if (watch->closed) {
    return;
  }
  napi_handle_scope scope;
  napi_value resource = NULL, callback = NULL;
  if (look(watch) && napi_open_handle_scope(watch->env, &scope) == napi_ok) {
    napi_get_reference_value(watch->env, watch->resource, &resource);
    napi_get_reference_value(watch->env, watch->callback, &callback);
    woke(watch, watch->found_at);
    if (callback != NULL) {
      call_while_readable(watch, resource, pf_undefined(watch->env), callback);
    }
    watch->slept_at = pf_now_ns();
    napi_close_handle_scope(watch->env, scope);
  }
  if (status < 0 && !watch->closed) {
    uv_poll_start(handle, UV_READABLE_EVENT, on_readable);
  }
}

/* --- the end --------------------------------------------------------------------------------------------------------------- */

static void release(watch_t *watch) {
  napi_handle_scope scope;
  if (napi_open_handle_scope(watch->env, &scope) == napi_ok) {
    if (watch->context != NULL) {
      napi_async_destroy(watch->env, watch->context);
    }
    napi_delete_reference(watch->env, watch->callback);
    napi_delete_reference(watch->env, watch->resource);
    if (watch->buffer != NULL) {
      napi_delete_reference(watch->env, watch->buffer);
    }
    napi_close_handle_scope(watch->env, scope);
  }
  if (watch->hook != NULL) {
    napi_remove_async_cleanup_hook(watch->hook); /* the environment may end now */
  }
  free(watch);
}

static void on_closed(uv_handle_t *handle) {
  watch_t *watch = handle->data;
  free(handle);
  release(watch);
}

static void stop(watch_t *watch) {
  if (!watch->closed) {
    watch->closed = true;
    busy_watches -= watch->busy_ns != 0;
    list_remove(watch);
    uv_close(watch->poll, on_closed); /* the descriptor leaves the loop's epoll at once */
  }
}

static void on_environment_end(napi_async_cleanup_hook_handle hook, void *data) {
  watch_t *watch = data;
  watch->hook = hook;
  stop(watch);
}

/* --- exports --------------------------------------------------------------------------------------------------------------- */

/* 0, or -errno as libuv gives it, with nothing left behind. */
static int begin(watch_t *watch, uv_loop_t *loop) {
  watch->poll = calloc(1, uv_handle_size(pf_uv_type("poll", UV_POLL_TYPE)));
  if (watch->poll == NULL) {
    return -ENOMEM;
  }
  int err = uv_poll_init(loop, watch->poll, watch->fd); /* -EEXIST: watched already. It makes the descriptor non-blocking */
  if (err != 0) {
    free(watch->poll);
    return err;
  }
  watch->poll->data = watch;
  return uv_poll_start(watch->poll, UV_READABLE_EVENT, on_readable); /* fails only for a handle that is closing */
}

static napi_value watch_start(napi_env env, napi_callback_info info) {
  napi_value args[4], resource = NULL;
  uv_loop_t *loop = NULL;
  pf_args(env, info, 4, args);
  watch_t *watch = calloc(1, sizeof *watch);
  if (watch == NULL || !pf_is_function(env, args[1]) || napi_get_uv_event_loop(env, (struct uv_loop_s **)&loop) != napi_ok) {
    free(watch);
    return pf_from_number(env, watch == NULL ? -ENOMEM : -EINVAL);
  }
  watch->env = env;
  watch->fd = (int)pf_integer(env, args[0]);
  watch->busy_ns = pf_number(env, args[2]) * 1000;
  int err = begin(watch, loop);
  if (err != 0) {
    free(watch);
    return pf_from_number(env, err);
  }
  if (pf_bytes(env, args[3], &watch->messages, &watch->room)) {
    napi_create_reference(env, args[3], 1, &watch->buffer);
  }
  napi_create_object(env, &resource);
  napi_create_reference(env, resource, 1, &watch->resource);
  napi_create_reference(env, args[1], 1, &watch->callback);
  napi_async_init(env, resource, pf_from_text(env, "pagefault watch"), &watch->context);
  napi_add_async_cleanup_hook(env, on_environment_end, watch, &watch->hook);
  list_add(watch);
  busy_watches += watch->busy_ns != 0;
  return pf_from_number(env, watch->id);
}

static napi_value watch_stop(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  watch_t *watch = own_watch(env, args[0]);
  if (watch != NULL) {
    stop(watch);
  }
  return NULL;
}

static napi_value watch_ref(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  watch_t *watch = own_watch(env, args[0]);
  if (watch != NULL) {
    (pf_boolean(env, args[1]) ? uv_ref : uv_unref)(watch->poll);
  }
  return NULL;
}

const pf_export_t pf_watch_exports[] = {
    {"watchStart", watch_start},
    {"watchStop", watch_stop},
    {"watchRef", watch_ref},
    {NULL, NULL},
};
