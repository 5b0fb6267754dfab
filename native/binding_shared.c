/*
 * Node-API: shared memory, and laying it over regions. On JavaScript threads. JavaScript holds an object by an external; what it does not close is let go
 * when the external is collected, or its thread ends.
 */
#include "binding.h"

#include <errno.h>
#include <stdlib.h>

typedef struct {
  pf_object_t *object; /* NULL: closed */
} held_t;

static void let_go(held_t *held) {
  pf_object_t *object = held->object;
  held->object = NULL;
  if (object != NULL) {
    pf_object_drop(object);
  }
}

static void collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  let_go(data);
  free(data);
}

static napi_value wrap(napi_env env, pf_object_t *object) {
  held_t *held = malloc(sizeof *held);
  napi_value external = NULL;
  if (held == NULL) {
    pf_object_drop(object);
    return pf_throw(env, PF_E_NO_MEMORY, 0, NULL, "no memory");
  }
  held->object = object;
  if (napi_create_external(env, held, collected, NULL, &external) != napi_ok) {
    collected(env, held, NULL);
  }
  return external;
}

/* NULL: it was closed, and that was thrown. */
static held_t *held_in(napi_env env, napi_value external) {
  void *held = NULL;
  if (napi_get_value_external(env, external, &held) != napi_ok || ((held_t *)held)->object == NULL) {
    pf_throw(env, PF_E_CLOSED, 0, NULL, "shared memory closed");
    return NULL;
  }
  return held;
}

/* sharedCreate(byteLength) */
static napi_value shared_create(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_object_t *object;
  pf_args(env, info, 1, args);
  int err = pf_object_create(pf_number(env, args[0]), &object);
  return err == 0 ? wrap(env, object) : pf_throw(env, PF_E_SYSTEM, -err, "memfd_create", "no shared memory can be made");
}

/* sharedAdopt(fd): undefined where it is no shared memory. */
static napi_value shared_adopt(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_object_t *object;
  pf_args(env, info, 1, args);
  int err = pf_object_adopt((int)pf_integer(env, args[0]), &object);
  if (err == -EINVAL) {
    return pf_undefined(env);
  }
  return err == 0 ? wrap(env, object) : pf_throw(env, PF_E_SYSTEM, -err, "mmap", "the shared memory cannot be mapped");
}

static napi_value shared_byte_length(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  held_t *held = held_in(env, args[0]);
  return held == NULL ? NULL : pf_from_number(env, (double)pf_object_length(held->object));
}

static napi_value shared_filled(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  held_t *held = held_in(env, args[0]);
  return held == NULL ? NULL : pf_from_number(env, (double)pf_object_filled(held->object));
}

static napi_value shared_fd(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  held_t *held = held_in(env, args[0]);
  return held == NULL ? NULL : pf_from_number(env, pf_object_fd(held->object));
}

static napi_value shared_close(napi_env env, napi_callback_info info) {
  napi_value args[1];
  void *held = NULL;
  pf_args(env, info, 1, args);
  if (napi_get_value_external(env, args[0], &held) == napi_ok) {
    let_go(held);
  }
  return NULL;
}

/* regionPatch(id, offset, shared): 0, or the errno that says what is in the way. Whole pages, but for the segment's last. */
static napi_value region_patch(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  held_t *held = held_in(env, args[2]);
  pf_region_t *region = held == NULL ? NULL : pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t offset = pf_number(env, args[1]), len = pf_object_length(held->object), size = pf_page_size(region);
  bool ends = offset <= region->byte_length && len == region->byte_length - offset;
  if (offset % size != 0 || offset > region->byte_length || len > region->byte_length - offset || (len % size != 0 && !ends)) {
    pf_region_leave(region);
    napi_throw_range_error(env, NULL, "regionPatch: not whole pages of the region");
    return NULL;
  }
  int err;
  MASKED(err = pf_region_patch(region, offset >> region->page_shift, (len + size - 1) >> region->page_shift, held->object, 0));
  pf_region_leave(region);
  if (err != 0 && err != -EBUSY && err != -EEXIST && err != -EOPNOTSUPP) {
    return pf_throw(env, PF_E_SYSTEM, -err, "mmap", "the memory cannot be laid over the segment");
  }
  return pf_from_number(env, -err);
}

const pf_export_t pf_shared_exports[] = {
    {"sharedCreate", shared_create},
    {"sharedAdopt", shared_adopt},
    {"sharedByteLength", shared_byte_length},
    {"sharedFilled", shared_filled},
    {"sharedFd", shared_fd},
    {"sharedClose", shared_close},
    {"regionPatch", region_patch},
    {NULL, NULL},
};
