/* Node-API: who has regions open: handles, closing, and what a thread leaves behind when it ends. */
#include "binding.h"

#include <stdlib.h>
#include <string.h>

/* --- holders --------------------------------------------------------------------------------------------------------------- */

/* args: address, byteLength, pageSize, writable, bytes. A handle may be made up, or put together from two. */
static bool is_as_said(napi_env env, const pf_region_t *region, const napi_value *args) {
  uint64_t address;
  uint8_t *bytes;
  size_t len;
  return pf_address(env, args[0], &address) && address == (uint64_t)(uintptr_t)region->base && pf_number(env, args[1]) == region->byte_length &&
         pf_number(env, args[2]) == pf_page_size(region) && pf_boolean(env, args[3]) == region->writable &&
         pf_bytes(env, args[4], &bytes, &len) && len > 0 && bytes == region->base;
}

static napi_value region_acquire(napi_env env, napi_callback_info info) {
  napi_value args[6];
  pf_args(env, info, 6, args);
  pf_region_t *region = pf_region_by_id(pf_number(env, args[0]));
  if (region != NULL && atomic_load(&region->phase) == PF_PHASE_OPEN && !is_as_said(env, region, args + 1)) {
    pf_region_leave(region);
    return pf_throw_code(env, "ERR_PAGEFAULT_STALE_HANDLE", "its numbers are those of another segment");
  }
  bool held = region != NULL && pf_region_hold(region);
  if (held) {
    pf_hold_for(env, atomic_load(&region->id));
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
  if (!held) {
    pf_throw_code(env, "ERR_PAGEFAULT_STALE_HANDLE", "the segment has been closed");
  }
  return NULL;
}

/* Bytes that a thread lent may go now, and a loader may be reading them still, or writing to them. It looks, between one and the next, whether the region is closed. */
static void outlive_readers(const pf_region_t *region) {
  uint64_t give_up = pf_now_ns() + 1000000000ULL; /* somebody may be kept inside by a pipe, who reads nothing any more */
  while (atomic_load(&region->users) > 1 && pf_now_ns() < give_up) {
    pf_sleep_until(pf_now_ns() + 100000ULL);
  }
}

/* Drops a holder. A plain region's memory is unmapped with the last: whoever could touch it has been detached, or never had a buffer. */
static bool end_hold(uint64_t id, bool force, bool detached) {
  pf_region_t *region = pf_region_by_id(id);
  if (region == NULL) {
    return false;
  }
  bool unmap = !region->shared && (detached || !region->buffered);
  bool ended = pf_region_close(region, force);
  if (ended && atomic_load(&region->lender) != NULL) {
    outlive_readers(region);
  }
  pf_region_leave(region);
  if (ended && unmap) {
    pf_region_memory_gone(id);
  } else if (ended) {
    pf_region_reap();
  }
  return ended;
}

static napi_value region_leave(napi_env env, napi_callback_info info) {
  napi_value args[1], result = NULL;
  pf_args(env, info, 1, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t id = atomic_load(&region->id);
  bool left = pf_region_unhold(region);
  pf_region_leave(region);
  if (left) {
    pf_unhold_for(env, id);
  }
  napi_get_boolean(env, left, &result);
  return result;
}

static void unused(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  pf_region_unused((uint64_t)(uintptr_t)data);
}

/* Detaches the buffer before anything else: from here on no JavaScript can touch the memory. Native code that was given a view may be at it still; it keeps the buffer
 * from being collected. */
static void detach(napi_env env, uint64_t id, napi_value buffer) {
  pf_region_t *region = pf_region_by_id(id);
  if (region != NULL && napi_add_finalizer(env, buffer, (void *)(uintptr_t)id, unused, NULL, NULL) == napi_ok) {
    pf_region_outlived(region);
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
  napi_detach_arraybuffer(env, buffer);
}

static napi_value region_close(napi_env env, napi_callback_info info) {
  napi_value args[3], result = NULL;
  pf_args(env, info, 3, args);
  uint64_t id = pf_number(env, args[0]);
  bool plain = false, taken = false;
  napi_is_arraybuffer(env, args[1], &plain);
  napi_is_detached_arraybuffer(env, args[1], &taken);
  if (plain && taken) {
    plain = false; /* another buffer has the memory (transfer(), a byte stream): it stays, closed, until that one is collected */
  } else if (plain) {
    detach(env, id, args[1]);
  }
  pf_unhold_for(env, id);
  napi_get_boolean(env, end_hold(id, pf_boolean(env, args[2]), plain), &result);
  return result;
}

static napi_value region_is_open(napi_env env, napi_callback_info info) {
  napi_value args[1], result = NULL;
  pf_args(env, info, 1, args);
  pf_region_t *region = pf_region_by_id(pf_number(env, args[0]));
  /* Its store may be read by those who are still inside, beside us. */
  napi_get_boolean(env, region != NULL && (atomic_load(&region->phase) == PF_PHASE_OPEN || atomic_load(&region->users) > 1), &result);
  if (region != NULL) {
    pf_region_leave(region);
  }
  return result;
}

/* --- what a thread holds, given back when its environment ends, however it ends -------------------------------------------- */

typedef struct {
  uint64_t id, first, end;
} pinned_t;

typedef struct {
  napi_env env;
  uint64_t *ids;
  size_t count, capacity;
  pinned_t *pins;
  size_t pin_count, pin_capacity;
} holds_t;

/* Bytes that the thread lent may go with it. Whoever else has the region open keeps a copy of them as they are now. False: there is no room for one, or somebody is
 * still reading, or what is written to the copy would not be seen by those who have the bytes. */
static bool keep_copy(pf_region_t *region) {
  pf_source_t *source = &region->source;
  void *copy = NULL;
  if (region->writable || pf_mem_reserve(region->store_length, "pagefault memory store", &copy) != 0) {
    return false;
  }
  memcpy(copy, source->bytes, region->store_length);
  source->owned = copy;
  source->owned_len = region->store_length;
  atomic_store(&source->bytes, copy);
  outlive_readers(region); /* that began with the lent bytes */
  if (atomic_load(&region->users) > 1) {
    return false;
  }
  atomic_store(&region->lender, NULL); /* another environment may come to have its address */
  return true;
}

/* A hold that nobody closed. If it is the last, what was not flushed is lost. So it is where the memory was collected before, and JavaScript has not come to
 * say so. */
static void end_untold(uint64_t id, bool force) {
  char name[PF_NAME_MAX] = "";
  pf_lost_t modified = {0};
  pf_region_t *region = pf_region_by_id(id);
  if (region != NULL) {
    modified = pf_modified(region);
    memcpy(name, region->name, sizeof name);
    pf_region_leave(region);
  }
  pf_report_lost(id, name, end_hold(id, force, false) ? &modified : NULL);
}

/* The thread's bytes go with it: those who have regions that read them keep a copy, or lose the region. It may have closed them itself long ago. */
static void take_back_bytes(napi_env env) {
  uintptr_t at = 0;
  for (pf_region_t *region; (region = pf_region_next(at)) != NULL;) {
    uint64_t id = atomic_load(&region->id);
    bool lent = atomic_load(&region->lender) == env && atomic_load(&region->phase) == PF_PHASE_OPEN, ends = lent && !keep_copy(region);
    at = (uintptr_t)region->base + region->length;
    if (ends && region->writable) {
      pf_flush_now(region);
    }
    pf_region_leave(region);
    if (ends) {
      end_untold(id, true);
    }
  }
}

static void give_back(void *data) {
  holds_t *holds = data;
  for (size_t i = 0; i < holds->pin_count; i++) {
    pf_unpin_by_id(holds->pins[i].id, holds->pins[i].first, holds->pins[i].end);
  }
  for (size_t i = 0; i < holds->count; i++) {
    end_untold(holds->ids[i], false);
  }
  take_back_bytes(holds->env);
  pf_memory_thread_ends(holds->env);
  free(holds->ids);
  free(holds->pins);
  free(holds);
}

static holds_t *holds_of(napi_env env) {
  holds_t *holds = NULL;
  if (napi_get_instance_data(env, (void **)&holds) == napi_ok && holds == NULL) {
    holds = calloc(1, sizeof *holds);
    if (holds != NULL) {
      holds->env = env;
      napi_set_instance_data(env, holds, NULL, NULL);
      napi_add_env_cleanup_hook(env, give_back, holds);
    }
  }
  return holds;
}

void pf_hold_for(napi_env env, uint64_t id) {
  holds_t *holds = holds_of(env);
  if (holds != NULL && holds->count == holds->capacity) {
    size_t capacity = holds->capacity == 0 ? 16 : holds->capacity * 2;
    uint64_t *ids = realloc(holds->ids, capacity * sizeof *ids);
    if (ids == NULL) {
      return; /* then only closing gives it back */
    }
    holds->ids = ids;
    holds->capacity = capacity;
  }
  if (holds != NULL) {
    holds->ids[holds->count++] = id;
  }
}

static bool has_hold(const holds_t *holds, uint64_t id) {
  for (size_t i = holds->count; i-- > 0;) {
    if (holds->ids[i] == id) {
      return true;
    }
  }
  return false;
}

void pf_unpin_by_id(uint64_t id, uint64_t first, uint64_t end) {
  pf_region_t *region = pf_region_by_id(id);
  if (region == NULL) {
    return; /* closed and gone, its pins with it */
  }
  if (atomic_load(&region->phase) == PF_PHASE_OPEN) {
    MASKED(pf_pin_remove(region, first, end));
  }
  pf_region_leave(region);
}

void pf_pin_for(napi_env env, uint64_t id, uint64_t first, uint64_t end) {
  holds_t *holds = holds_of(env);
  if (holds == NULL) {
    return; /* then only unpinning gives them back */
  }
  if (!has_hold(holds, id)) { /* closed while they were loaded: nobody will unpin them */
    pf_unpin_by_id(id, first, end);
    return;
  }
  if (holds->pin_count == holds->pin_capacity) {
    size_t capacity = holds->pin_capacity == 0 ? 16 : holds->pin_capacity * 2;
    pinned_t *pins = realloc(holds->pins, capacity * sizeof *pins);
    if (pins == NULL) {
      return;
    }
    holds->pins = pins;
    holds->pin_capacity = capacity;
  }
  holds->pins[holds->pin_count++] = (pinned_t){.id = id, .first = first, .end = end};
}

void pf_unpin_for(napi_env env, uint64_t id, uint64_t first, uint64_t end) {
  holds_t *holds = holds_of(env);
  for (size_t i = holds == NULL ? 0 : holds->pin_count; i-- > 0;) {
    const pinned_t *pin = &holds->pins[i];
    if (pin->id == id && pin->first == first && pin->end == end) {
      holds->pins[i] = holds->pins[--holds->pin_count];
      break;
    }
  }
  pf_unpin_by_id(id, first, end);
}

void pf_unhold_for(napi_env env, uint64_t id) {
  holds_t *holds = holds_of(env);
  for (size_t i = holds == NULL ? 0 : holds->count; i-- > 0;) {
    if (holds->ids[i] == id) {
      holds->ids[i] = holds->ids[--holds->count];
      break;
    }
  }
  bool held = holds == NULL || holds->pin_count == 0 || has_hold(holds, id);
  for (size_t i = held ? 0 : holds->pin_count; i-- > 0;) {
    pinned_t pin = holds->pins[i];
    if (pin.id == id) {
      holds->pins[i] = holds->pins[--holds->pin_count];
      pf_unpin_by_id(id, pin.first, pin.end);
    }
  }
}

const pf_export_t pf_hold_exports[] = {
    {"regionAcquire", region_acquire},
    {"regionClose", region_close},
    {"regionLeave", region_leave},
    {"regionIsOpen", region_is_open},
    {NULL, NULL},
};
