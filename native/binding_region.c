/* Node-API: regions. Made, seen as buffers, read, released, counted. */
#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* --- creating -------------------------------------------------------------------------------------------------------------- */

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

const char *pf_tracking_name(pf_track_t track) {
  return track == PF_TRACK_ASYNC ? "async" : track == PF_TRACK_FAULT ? "fault" : "none";
}

static bool is_text(napi_env env, napi_value value, const char *text) {
  char buffer[16];
  pf_text(env, value, buffer, sizeof buffer);
  return strcmp(buffer, text) == 0;
}

static pf_backend_t backend_of(napi_env env, napi_value name) {
  return is_text(env, name, "mprotect") ? PF_BACKEND_MPROTECT : is_text(env, name, "memfd") ? PF_BACKEND_MEMFD : is_text(env, name, "thread") ? PF_BACKEND_THREAD : PF_BACKEND_SIGNAL;
}

static napi_value create_error(napi_env env, int err, const char *step, const char *other) {
  if (err == -ENOSPC) {
    return pf_throw(env, PF_E_BUDGET, 0, NULL, "the segments of one budget have at most 2^31 pages; use a larger pageSize");
  }
  if (err == -EBUSY) {
    char text[PF_MESSAGE_MAX];
    snprintf(text, sizeof text, "map(): segment \"%s\" pages this memory already; close that first", other);
    return pf_throw_code(env, "ERR_PAGEFAULT_SEGMENT_OVERLAP", text);
  }
  if (err == -EAGAIN) {
    return pf_throw(env, PF_E_SYSTEM, -err, step, "the segment that had this memory is closed, but threads are still inside it");
  }
  if (err == -EOPNOTSUPP && strcmp(step, "userfaultfd") == 0) {
    return pf_throw_code(env, "ERR_PAGEFAULT_UNSUPPORTED", "map(): this kernel's userfaultfd lacks what this backend needs");
  }
  if (err == -EOPNOTSUPP) {
    return pf_throw_code(env, "ERR_PAGEFAULT_UNSUPPORTED", "map(): this memory has nothing reserved behind it to grow into, or cannot grow on this backend");
  }
  return pf_throw(env, err == -ENOMEM ? PF_E_NO_MEMORY : PF_E_SYSTEM, -err, step, "the segment's memory cannot be set up");
}

/* Memory that exists, if it is to be paged. False: thrown. */
static bool read_into(napi_env env, napi_value in, pf_region_options_t *options) {
  size_t page = pf_os_page_size();
  size_t whole = (size_t)((options->byte_length + options->page_size - 1) / options->page_size * options->page_size);
  if (pf_bytes(env, pf_property(env, in, "into"), &options->into, &options->into_length)) {
    options->shared = true;
    options->into_grows = pf_boolean(env, pf_property(env, in, "intoGrows"));
    if ((uintptr_t)options->into % page != 0 || options->into_length % page != 0 || (options->into_length < whole && !options->into_grows)) {
      napi_throw_range_error(env, NULL, "into must be page-aligned and hold whole pages");
      return false;
    }
  }
  return true;
}

/* Read last, and before there is a region: a thread that is being terminated reads nothing any more, so if this is read, everything was, and the hold knows what
 * becomes paged however the thread ends. */
static bool read_hold(napi_env env, napi_value in, uint64_t *hold) {
  napi_value value;
  bool read = napi_get_named_property(env, in, "hold", &value) == napi_ok;
  *hold = read ? pf_number(env, value) : 0;
  return read;
}

/* What JavaScript is told of a region that was made. This thread holds it from here on; it is left. */
static napi_value created(napi_env env, uint64_t hold, pf_region_t *region) {
  napi_value out = NULL, address = NULL;
  napi_create_object(env, &out);
  napi_create_bigint_uint64(env, (uint64_t)(uintptr_t)region->base, &address);
  pf_set(env, out, "id", pf_from_number(env, (double)atomic_load(&region->id)));
  pf_set(env, out, "address", address);
  pf_set(env, out, "tracking", pf_from_text(env, pf_tracking_name(region->track)));
  pf_hold_for(env, atomic_load(&region->id));
  pf_memory_paged(hold, region->base, region->length);
  atomic_store(&region->lender, region->source.kind == PF_SOURCE_MEMORY && region->source.owned == NULL ? env : NULL);
  pf_region_leave(region);
  return out;
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
      .backend = backend_of(env, pf_property(env, in, "backend")),
      .readahead = pf_integer(env, pf_property(env, in, "readahead")),
      .longest_read = pf_number(env, pf_property(env, in, "longestRead")),
      .timeout_ms = pf_number(env, pf_property(env, in, "faultTimeoutMs")),
      .stall_after_ms = pf_number(env, pf_property(env, in, "stallAfterMs")),
      .poll_ms = pf_number(env, pf_property(env, in, "pollIntervalMs")),
      .unreadable_zero = is_text(env, pf_property(env, in, "unreadable"), "zero"),
      .writable = pf_boolean(env, pf_property(env, in, "writable")),
      .on_write = pf_boolean(env, pf_property(env, in, "onWrite")),
      .name = name,
      .store_name = store_name,
  };
  size_t page = pf_os_page_size();
  if (options.byte_length == 0 || options.page_size < page || options.page_size > (size_t)1 << PF_PAGE_SHIFT_MAX ||
      (options.page_size & (options.page_size - 1)) != 0) {
    napi_throw_range_error(env, NULL, "byteLength must be positive and pageSize a power of two between the system's page size and 2 MiB");
    return NULL;
  }
  if (!read_into(env, in, &options)) {
    return NULL;
  }
  uint64_t budget = pf_number(env, pf_property(env, in, "budget"));
  options.budget = budget == 0 ? NULL : pf_budget_by_id(budget);
  if (budget != 0 && options.budget == NULL) {
    return pf_throw(env, PF_E_CLOSED, 0, NULL, "budget released");
  }
  napi_value out = NULL;
  uint64_t hold;
  if (read_source(env, pf_property(env, in, "source"), &options.source) && read_hold(env, in, &hold)) {
    pf_region_t *region;
    const char *step;
    int err = pf_region_create(&options, &region, &step);
    if (err == 0) {
      out = created(env, hold, region);
    } else {
      discard_source(&options.source);
      create_error(env, err, step, options.other);
    }
  } else {
    discard_source(&options.source);
  }
  if (options.budget != NULL) {
    pf_budget_drop(options.budget);
  }
  return out;
}

/* --- buffers --------------------------------------------------------------------------------------------------------------- */

static void collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  uint64_t id = (uint64_t)(uintptr_t)hint;
  pf_region_t *region = pf_region_by_id(id);
  if (region != NULL) {
    pf_note_lost(region); /* nothing, where it was closed */
    pf_region_leave(region);
  }
  pf_region_memory_gone(id);
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
  napi_status status = napi_create_external_arraybuffer(env, region->base, (size_t)region->byte_length, collected, id, &buffer);
  region->buffered = region->buffered || status == napi_ok; /* a thread that is being terminated gets none, and nobody would say when it is gone */
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
  void *id = (void *)(uintptr_t)atomic_load(&region->id);
  napi_status status = create(env, region->base, (size_t)region->byte_length, shared_collected, id, &buffer);
  region->shared = region->shared || status == napi_ok;
  region->buffered = region->buffered || status == napi_ok;
  pf_region_leave(region);
  if (status != napi_ok && status != napi_pending_exception) {
    return pf_throw(env, PF_E_SYSTEM, 0, NULL, "the runtime cannot make a SharedArrayBuffer of this length");
  }
  return status == napi_ok ? buffer : NULL;
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
    pf_throw_page(env, region, page, why);
  }
  pf_region_leave(region);
  return NULL;
}

static napi_value region_release(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  uint64_t first, end, freed = 0;
  if (region == NULL) {
    return NULL;
  }
  if (pf_whole_pages(region, pf_number(env, args[1]), pf_number(env, args[2]), &first, &end)) {
    bool all = first == 0 && end == region->page_count;
    MASKED({
      freed = pf_region_release(region, first, end);
      if (all) {
        pf_region_unpatch(region);
      }
    });
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
  if (pf_whole_pages(region, pf_number(env, args[1]), pf_number(env, args[2]), &first, &end)) {
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

#define STATS 27

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
  const _Atomic uint64_t *of_writes[] = {&c->collapses,     &c->write_faults, &c->store_writes,  &c->bytes_written,
                                         &c->flushed_pages, &c->write_backs,  &c->write_failures};
  size_t writes = sizeof of_writes / sizeof *of_writes;
  for (size_t i = 0; i < writes; i++) {
    out[count + 2 + i] = (double)atomic_load(of_writes[i]);
  }
  out[count + 2 + writes] = (double)pf_signal_forwarded();
  out[count + 3 + writes] = (double)pf_signal_reinstalls();
  out[count + 4 + writes] = (double)atomic_load(&c->stalls);
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

const pf_export_t pf_region_exports[] = {
    {"regionCreate", region_create},
    {"regionArrayBuffer", region_array_buffer},
    {"regionSharedArrayBuffer", region_shared_array_buffer},
    {"regionRead", region_read},
    {"regionRelease", region_release},
    {"regionInvalidate", region_invalidate},
    {"regionStats", region_stats},
    {"regionStates", region_states},
    {NULL, NULL},
};
