/* Node-API: regions. Made, seen as buffers, read, released, counted, closed. */
#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* --- creating ------------------------------------------------------------------------------------------------------------ */

/* The bytes as a memory source: shared memory in place (the caller keeps it alive), anything else copied. False: thrown. */
static bool memory_source(napi_env env, napi_value object, pf_source_t *source) {
  napi_value bytes = pf_property(env, object, "bytes");
  uint8_t *from;
  size_t len;
  if (!pf_bytes(env, bytes, &from, &len)) {
    napi_throw_type_error(env, NULL, "memory source: bytes must be a Uint8Array");
    return false;
  }
  bool plain = false;
  napi_is_arraybuffer(env, pf_property(env, bytes, "buffer"), &plain);
  if (!plain && len > 0) {
    pf_region_t *paged = pf_region_at((uintptr_t)from);
    if (paged != NULL) {
      pf_region_leave(paged);
      napi_throw_type_error(env, NULL, "memory source: the bytes are paged themselves; copy them first");
      return false;
    }
    source->bytes = from;
    return true;
  }
  int err = pf_mem_reserve(len == 0 ? 1 : len, "pagefault memory store", &source->owned);
  if (err != 0) {
    pf_throw(env, PF_E_SYSTEM, -err, "mmap", "no room for a copy of the bytes");
    return false;
  }
  source->owned_len = len == 0 ? 1 : len;
  memcpy(source->owned, from, len);
  source->bytes = source->owned;
  return true;
}

static bool file_source(napi_env env, napi_value object, pf_source_t *source) {
  char path[4096];
  pf_text(env, pf_property(env, object, "path"), path, sizeof path);
  /* One of our own: Node closes what its `fs` opened in a Worker when that Worker ends, by number, whoever has the number by then. */
  source->fd = fcntl((int)pf_integer(env, pf_property(env, object, "fd")), F_DUPFD_CLOEXEC, 3);
  if (source->fd < 0) {
    pf_throw(env, PF_E_SYSTEM, errno, "fcntl", "no descriptor for the file");
    return false;
  }
  source->offset = pf_number(env, pf_property(env, object, "offset"));
  source->check = pf_boolean(env, pf_property(env, object, "checkChanges"));
  source->path = strdup(path);
  int err = source->path == NULL ? -ENOMEM : pf_source_identify(source);
  if (err != 0) {
    pf_throw(env, PF_E_SYSTEM, -err, "fstat", "the file cannot be looked at");
    return false;
  }
  return true;
}

/* On failure something was thrown and what was made so far is in `source`, to be discarded. */
static bool read_source(napi_env env, napi_value object, pf_source_t *source) {
  char kind[16];
  *source = (pf_source_t){.fd = -1};
  pf_text(env, pf_property(env, object, "kind"), kind, sizeof kind);
  if (strcmp(kind, "file") == 0) {
    source->kind = PF_SOURCE_FILE;
    return file_source(env, object, source);
  }
  if (strcmp(kind, "memory") == 0) {
    source->kind = PF_SOURCE_MEMORY;
    return memory_source(env, object, source);
  }
  if (strcmp(kind, "pager") == 0) {
    source->kind = PF_SOURCE_PAGER;
    source->pager = pf_pager_hold_by_id(pf_number(env, pf_property(env, object, "pager")));
    source->store = (uint32_t)pf_number(env, pf_property(env, object, "store"));
    if (source->pager == NULL) {
      pf_throw(env, PF_E_GONE, 0, NULL, "the Worker that runs the store has ended");
    }
    return source->pager != NULL;
  }
  source->kind = PF_SOURCE_ZERO;
  return true;
}

/* The descriptor is still the caller's when creating fails. */
static void discard_source(pf_source_t *source) { pf_source_close(source); }

static bool is_text(napi_env env, napi_value value, const char *text) {
  char buffer[16];
  pf_text(env, value, buffer, sizeof buffer);
  return strcmp(buffer, text) == 0;
}

static napi_value create_error(napi_env env, int err, const char *step) {
  if (err == -ENOSPC) {
    return pf_throw(env, PF_E_BUDGET, 0, NULL, "the segments of one budget have at most 2^31 pages; use a larger pageSize");
  }
  if (err == -EBUSY) {
    return pf_throw(env, PF_E_SYSTEM, -err, step, "this memory is paged by another segment already");
  }
  return pf_throw(env, err == -ENOMEM ? PF_E_NO_MEMORY : PF_E_SYSTEM, -err, step, "the segment's memory cannot be set up");
}

static napi_value region_create(napi_env env, napi_callback_info info) {
  napi_value args[1];
  char name[PF_NAME_MAX], store_name[2 * PF_NAME_MAX];
  pf_args(env, info, 1, args);
  napi_value in = args[0];
  pf_text(env, pf_property(env, in, "name"), name, sizeof name);
  pf_text(env, pf_property(env, in, "storeName"), store_name, sizeof store_name);
  pf_region_options_t options = {
      .byte_length = pf_number(env, pf_property(env, in, "byteLength")),
      .store_length = pf_number(env, pf_property(env, in, "storeLength")),
      .page_size = pf_number(env, pf_property(env, in, "pageSize")),
      .backend = is_text(env, pf_property(env, in, "backend"), "mprotect") ? PF_BACKEND_MPROTECT : PF_BACKEND_SIGNAL,
      .readahead = pf_integer(env, pf_property(env, in, "readahead")),
      .timeout_ms = pf_number(env, pf_property(env, in, "faultTimeoutMs")),
      .unreadable_zero = is_text(env, pf_property(env, in, "unreadable"), "zero"),
      .name = name,
      .store_name = store_name,
  };
  size_t page = pf_os_page_size();
  if (options.byte_length == 0 || options.page_size < page || options.page_size > (size_t)1 << PF_PAGE_SHIFT_MAX ||
      (options.page_size & (options.page_size - 1)) != 0) {
    napi_throw_range_error(env, NULL, "byteLength must be positive and pageSize a power of two between the system's page size and 2 MiB");
    return NULL;
  }
  size_t whole = (size_t)((options.byte_length + options.page_size - 1) / options.page_size * options.page_size);
  if (pf_bytes(env, pf_property(env, in, "into"), &options.into, &options.into_length)) {
    options.shared = true;
    if ((uintptr_t)options.into % page != 0 || options.into_length < whole) {
      napi_throw_range_error(env, NULL, "into must be page-aligned and hold whole pages");
      return NULL;
    }
  }
  uint64_t budget = pf_number(env, pf_property(env, in, "budget"));
  options.budget = budget == 0 ? NULL : pf_budget_by_id(budget);
  if (budget != 0 && options.budget == NULL) {
    return pf_throw(env, PF_E_CLOSED, 0, NULL, "budget released");
  }
  napi_value out = NULL;
  if (read_source(env, pf_property(env, in, "source"), &options.source)) {
    pf_region_t *region;
    const char *step;
    int err = pf_region_create(&options, &region, &step);
    if (err == 0) {
      napi_value address = NULL;
      napi_create_object(env, &out);
      napi_create_bigint_uint64(env, (uint64_t)(uintptr_t)region->base, &address);
      pf_set(env, out, "id", pf_from_number(env, (double)atomic_load(&region->id)));
      pf_set(env, out, "address", address);
      pf_hold_for(env, atomic_load(&region->id));
      region->lender = region->source.kind == PF_SOURCE_MEMORY && region->source.owned == NULL ? env : NULL;
      pf_region_leave(region);
    } else {
      discard_source(&options.source);
      create_error(env, err, step);
    }
  } else {
    discard_source(&options.source);
  }
  if (options.budget != NULL) {
    pf_budget_drop(options.budget);
  }
  return out;
}

/* --- buffers -------------------------------------------------------------------------------------------------------------- */

static void collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  pf_region_memory_gone((uint64_t)(uintptr_t)hint);
}

static void shared_collected(void *data, void *hint) { collected(NULL, data, hint); }

static napi_value region_array_buffer(napi_env env, napi_callback_info info) {
  napi_value args[1], buffer = NULL;
  pf_args(env, info, 1, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  void *id = (void *)(uintptr_t)atomic_load(&region->id);
  region->buffered = true;
  napi_status status = napi_create_external_arraybuffer(env, region->base, (size_t)region->byte_length, collected, id, &buffer);
  pf_region_leave(region);
  if (status != napi_ok && status != napi_pending_exception) {
    return pf_throw(env, PF_E_SYSTEM, 0, NULL,
                    status == napi_no_external_buffers_allowed ? "this runtime does not allow external ArrayBuffers"
                                                               : "the runtime cannot make an ArrayBuffer of this length");
  }
  return status == napi_ok ? buffer : NULL;
}

static napi_value region_shared_array_buffer(napi_env env, napi_callback_info info) {
  napi_value args[1], buffer = NULL;
  pf_args(env, info, 1, args);
  pf_create_shared_t create = pf_create_shared();
  pf_region_t *region = create == NULL ? NULL : pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  region->shared = true;
  region->buffered = true;
  void *id = (void *)(uintptr_t)atomic_load(&region->id);
  napi_status status = create(env, region->base, (size_t)region->byte_length, shared_collected, id, &buffer);
  pf_region_leave(region);
  if (status != napi_ok && status != napi_pending_exception) {
    return pf_throw(env, PF_E_SYSTEM, 0, NULL, "the runtime cannot make a SharedArrayBuffer of this length");
  }
  return status == napi_ok ? buffer : NULL;
}

/* --- holders --------------------------------------------------------------------------------------------------------------- */

static napi_value region_acquire(napi_env env, napi_callback_info info) {
  napi_value args[1], error = NULL;
  pf_args(env, info, 1, args);
  pf_region_t *region = pf_region_by_id(pf_number(env, args[0]));
  bool held = region != NULL && pf_region_hold(region);
  if (held) {
    pf_hold_for(env, atomic_load(&region->id));
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
  if (!held) {
    napi_create_error(env, pf_from_text(env, "ERR_PAGEFAULT_STALE_HANDLE"),
                      pf_from_text(env, "the segment of this handle is closed, or was mapped by another process"), &error);
    napi_throw(env, error);
  }
  return NULL;
}

/* Drops a holder. A plain region's memory is unmapped with the last: whoever could touch it has been detached, or never had a buffer. */
static bool end_hold(uint64_t id, bool force, bool detached) {
  pf_region_t *region = pf_region_by_id(id);
  if (region == NULL) {
    return false;
  }
  bool unmap = !region->shared && (detached || !region->buffered);
  bool ended = pf_region_close(region, force);
  pf_region_leave(region);
  if (ended && unmap) {
    pf_region_memory_gone(id);
  } else if (ended) {
    pf_region_reap();
  }
  return ended;
}

static napi_value region_close(napi_env env, napi_callback_info info) {
  napi_value args[3], result = NULL;
  pf_args(env, info, 3, args);
  uint64_t id = pf_number(env, args[0]);
  bool plain = false;
  napi_is_arraybuffer(env, args[1], &plain);
  if (plain) {
    napi_detach_arraybuffer(env, args[1]); /* before anything else: from here on no JavaScript can touch it */
  }
  pf_unhold_for(env, id);
  napi_get_boolean(env, end_hold(id, pf_boolean(env, args[2]), plain), &result);
  return result;
}

/* --- what a thread holds, given back when its environment ends, however it ends ----------------------------------------- */

typedef struct {
  napi_env env;
  uint64_t *ids;
  size_t count, capacity;
} holds_t;

/* Bytes that the thread lent may go with it. Whoever else has the region open keeps a copy of them as they are now. True: there is no room for
 * one, or somebody is still reading; then the region ends for all. */
static bool must_end(napi_env env, uint64_t id) {
  pf_region_t *region = pf_region_by_id(id);
  bool fine = true;
  if (region != NULL && region->lender == env && region->holders > 1) {
    pf_source_t *source = &region->source;
    void *copy = NULL;
    fine = pf_mem_reserve(region->store_length, "pagefault memory store", &copy) == 0;
    if (fine) {
      memcpy(copy, source->bytes, region->store_length);
      source->owned = copy;
      source->owned_len = region->store_length;
      atomic_store(&source->bytes, copy);
      uint64_t give_up = pf_now_ns() + 1000000000ULL;
      while (atomic_load(&region->users) > 1 && pf_now_ns() < give_up) { /* reads that began with the lent bytes */
        pf_sleep_until(pf_now_ns() + 100000ULL);
      }
      fine = atomic_load(&region->users) <= 1;
    }
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
  return !fine;
}

static void give_back(void *data) {
  holds_t *holds = data;
  for (size_t i = 0; i < holds->count; i++) {
    end_hold(holds->ids[i], must_end(holds->env, holds->ids[i]), false);
  }
  free(holds->ids);
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

void pf_unhold_for(napi_env env, uint64_t id) {
  holds_t *holds = holds_of(env);
  for (size_t i = holds == NULL ? 0 : holds->count; i-- > 0;) {
    if (holds->ids[i] == id) {
      holds->ids[i] = holds->ids[--holds->count];
      return;
    }
  }
}

static napi_value region_is_open(napi_env env, napi_callback_info info) {
  napi_value args[1], result = NULL;
  pf_args(env, info, 1, args);
  pf_region_t *region = pf_region_by_id(pf_number(env, args[0]));
  napi_get_boolean(env, region != NULL && atomic_load(&region->phase) == PF_PHASE_OPEN, &result);
  if (region != NULL) {
    pf_region_leave(region);
  }
  return result;
}

/* --- reading and dropping -------------------------------------------------------------------------------------------------- */

static napi_value region_read(napi_env env, napi_callback_info info) {
  napi_value args[3];
  uint8_t *into;
  size_t len;
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t offset = pf_number(env, args[1]);
  if (!pf_bytes(env, args[2], &into, &len) || offset > region->byte_length || len > region->byte_length - offset) {
    pf_region_leave(region);
    napi_throw_range_error(env, NULL, "regionRead: outside the region");
    return NULL;
  }
  uint64_t page = 0;
  pf_why_t why;
  bool read;
  MASKED(read = pf_region_copy_out(region, offset, into, len, &page, &why));
  if (!read) {
    pf_failure_t failure;
    MASKED(pf_failure_of(region, page, why, &failure));
    pf_throw_failure(env, &failure);
  }
  pf_region_leave(region);
  return NULL;
}

/* The whole pages inside a range of bytes; the last page of the region is whole when the range reaches the end. */
static bool whole_pages(const pf_region_t *region, uint64_t offset, uint64_t len, uint64_t *first, uint64_t *end) {
  uint64_t size = pf_page_size(region);
  uint64_t stop = len > region->byte_length - offset ? region->byte_length : offset + len;
  *first = (offset + size - 1) >> region->page_shift;
  *end = stop == region->byte_length ? region->page_count : stop >> region->page_shift;
  return *first < *end;
}

static napi_value region_release(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  uint64_t first, end, freed = 0;
  if (region == NULL) {
    return NULL;
  }
  uint64_t offset = pf_number(env, args[1]);
  if (offset <= region->byte_length && whole_pages(region, offset, pf_number(env, args[2]), &first, &end)) {
    MASKED(freed = pf_region_release(region, first, end));
  }
  pf_region_leave(region);
  return pf_from_number(env, (double)freed);
}

static napi_value region_invalidate(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  uint64_t first, end;
  if (region == NULL) {
    return NULL;
  }
  int err = 0;
  bool dropped = true;
  uint64_t offset = pf_number(env, args[1]);
  if (offset <= region->byte_length && whole_pages(region, offset, pf_number(env, args[2]), &first, &end)) {
    err = pf_source_rebase(&region->source);
    MASKED(dropped = pf_region_invalidate(region, first, end));
  }
  pf_region_leave(region);
  if (!dropped) {
    return pf_throw(env, PF_E_SYSTEM, 0, "madvise", "the kernel refuses to drop pages (is the memory locked?), so some still show old bytes");
  }
  return err == 0 ? NULL : pf_throw(env, PF_E_STORE, -err, "open", "the file that took the place of the mapped one cannot be used");
}

/* --- numbers --------------------------------------------------------------------------------------------------------------- */

#define STATS 20

static void read_counters(const pf_region_t *region, double *out) {
  const pf_counters_t *c = &region->counters;
  const _Atomic uint64_t *in_order[] = {&c->faults,    &c->loads,  &c->store_reads, &c->bytes_read,   &c->readahead_pages, &c->readahead_hits,
                                        &c->evictions, &c->steals, &c->waits,       &c->retries,      &c->failures,        &c->failed_pages,
                                        &c->resident,  &c->staged, &c->pinned_pages};
  size_t count = sizeof in_order / sizeof *in_order;
  for (size_t i = 0; i < count; i++) {
    out[i] = (double)atomic_load(in_order[i]);
  }
  pf_budget_numbers_t budget = {0};
  if (region->budget != NULL) {
    pf_budget_numbers(region->budget, &budget);
  }
  out[count] = (double)budget.used;
  out[count + 1] = (double)budget.limit;
  out[count + 2] = (double)atomic_load(&c->collapses);
  out[count + 3] = (double)pf_signal_forwarded();
  out[count + 4] = (double)pf_signal_reinstalls();
  for (size_t i = 0; i < PF_HISTOGRAM; i++) {
    out[STATS + i] = (double)atomic_load(&c->histogram[i]);
  }
}

static napi_value region_stats(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  double *out = pf_elements(env, args[1], napi_float64_array, STATS + PF_HISTOGRAM);
  if (out != NULL) {
    /* One consistent snapshot: read until two readings agree, within reason on a busy region. */
    double before[STATS + PF_HISTOGRAM];
    read_counters(region, out);
    for (int tries = 0; tries < 1000; tries++) {
      memcpy(before, out, sizeof before);
      read_counters(region, out);
      if (memcmp(before, out, sizeof before) == 0) {
        break;
      }
    }
  }
  pf_region_leave(region);
  return NULL;
}

static napi_value region_states(napi_env env, napi_callback_info info) {
  napi_value args[3];
  uint8_t *out;
  size_t len;
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t first = pf_number(env, args[1]);
  if (pf_bytes(env, args[2], &out, &len)) {
    for (size_t i = 0; i < len; i++) {
      uint8_t state = first + i < region->page_count ? atomic_load(&region->states[first + i]) : 0;
      out[i] = state & (PF_STATE | PF_PINNED);
    }
  }
  pf_region_leave(region);
  return NULL;
}

static napi_value region_failure(napi_env env, napi_callback_info info) {
  napi_value args[2], null_value = NULL;
  pf_failure_t failure;
  pf_args(env, info, 2, args);
  napi_get_null(env, &null_value);
  uint64_t id = pf_number(env, args[0]), offset = pf_number(env, args[1]);
  pf_region_t *region = pf_region_by_id(id);
  if (region == NULL) {
    return null_value;
  }
  bool found;
  offset = offset >> region->page_shift << region->page_shift;
  MASKED(found = pf_failure_find(id, offset, &failure));
  pf_region_leave(region);
  return found ? pf_failure_object(env, &failure) : null_value;
}

static napi_value region_take_failures(napi_env env, napi_callback_info info) {
  napi_value args[1], list = NULL;
  pf_failure_t failure;
  pf_args(env, info, 1, args);
  napi_create_array(env, &list);
  uint64_t id = pf_number(env, args[0]);
  pf_region_t *region = pf_region_by_id(id);
  for (uint32_t i = 0; region != NULL && i < 64; i++) {
    bool found;
    MASKED(found = pf_failure_next(id, region->failures_taken, &failure));
    if (!found) {
      break;
    }
    region->failures_taken = failure.serial;
    napi_set_element(env, list, i, pf_failure_object(env, &failure));
  }
  if (region != NULL) {
    pf_region_leave(region);
  }
  return list;
}

const pf_export_t pf_region_exports[] = {
    {"regionCreate", region_create},
    {"regionArrayBuffer", region_array_buffer},
    {"regionSharedArrayBuffer", region_shared_array_buffer},
    {"regionAcquire", region_acquire},
    {"regionClose", region_close},
    {"regionIsOpen", region_is_open},
    {"regionRead", region_read},
    {"regionRelease", region_release},
    {"regionInvalidate", region_invalidate},
    {"regionStats", region_stats},
    {"regionStates", region_states},
    {"regionFailure", region_failure},
    {"regionTakeFailures", region_take_failures},
    {NULL, NULL},
};
