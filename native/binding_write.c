/*
 * Node-API: regions that may be written. Copying in, what is modified, forgetting it, and what is said of modified bytes that are lost. On
 * JavaScript threads; what is lost is also noted by a finalizer, on whatever thread that runs. Locks: that of the table of losses, a leaf.
 */
#include "binding.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BOUNCE ((size_t)1 << 20) /* bytes copied at once between paged memory and paged memory */

bool pf_whole_pages(const pf_region_t *region, uint64_t offset, uint64_t len, uint64_t *first, uint64_t *end) {
  if (offset > region->byte_length) {
    return false;
  }
  uint64_t size = pf_page_size(region);
  uint64_t stop = len > region->byte_length - offset ? region->byte_length : offset + len;
  *first = (offset + size - 1) >> region->page_shift;
  *end = stop == region->byte_length ? region->page_count : stop >> region->page_shift;
  return *first < *end;
}

bool pf_touched_pages(const pf_region_t *region, uint64_t offset, uint64_t len, uint64_t *first, uint64_t *end) {
  if (len == 0 || offset >= region->byte_length || len > region->byte_length - offset) {
    return false;
  }
  *first = offset >> region->page_shift;
  *end = (offset + len + pf_page_size(region) - 1) >> region->page_shift;
  return true;
}

/* --- copying in ---------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_region_t *region; /* of the page that cannot be had */
  uint64_t page;
  pf_why_t why;
} refusal_t;

static bool copy_in(pf_region_t *region, uint64_t offset, const uint8_t *from, size_t len, refusal_t *refusal) {
  bool copied;
  refusal->region = region;
  MASKED(copied = pf_region_copy_in(region, offset, from, len, &refusal->page, &refusal->why));
  return copied;
}

/* The bytes lie in paged memory: copied through memory of ours, because a touch of a page that cannot be had would end the process.
 * Backwards where the two overlap and forwards would copy what was just written. */
static bool copy_paged(pf_region_t *source, pf_region_t *region, uint64_t offset, const uint8_t *from, size_t len, refusal_t *refusal) {
  const uint8_t *to = region->base + offset;
  bool backwards = to > from && to < from + len;
  size_t step = len < BOUNCE ? len : BOUNCE;
  uint8_t *bounce = malloc(step);
  refusal->region = region;
  refusal->page = offset >> region->page_shift;
  refusal->why = (pf_why_t){.code = PF_E_NO_MEMORY};
  bool copied = bounce != NULL;
  for (size_t done = 0; copied && done < len; done += step) {
    size_t now = len - done < step ? len - done : step;
    size_t at = backwards ? len - done - now : done;
    bool read;
    MASKED(read = pf_region_copy_out(source, (uint64_t)(from + at - source->base), bounce, now, &refusal->page, &refusal->why));
    if (!read) {
      refusal->region = source;
    }
    copied = read && copy_in(region, offset + at, bounce, now, refusal);
  }
  free(bounce);
  return copied;
}

static napi_value region_write(napi_env env, napi_callback_info info) {
  napi_value args[3];
  uint8_t *from;
  size_t len;
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t offset = pf_number(env, args[1]);
  if (!region->writable || !pf_bytes(env, args[2], &from, &len) || offset > region->byte_length || len > region->byte_length - offset) {
    bool writable = region->writable;
    pf_region_leave(region);
    napi_throw_range_error(env, NULL, writable ? "regionWrite: outside the region" : "regionWrite: the region is read-only");
    return NULL;
  }
  refusal_t refusal = {0};
  pf_region_t *source = len == 0 ? NULL : pf_region_at((uintptr_t)from);
  bool written = source == NULL ? copy_in(region, offset, from, len, &refusal) : copy_paged(source, region, offset, from, len, &refusal);
  if (!written) {
    pf_throw_page(env, refusal.region, refusal.page, refusal.why);
  }
  if (source != NULL) {
    pf_region_leave(source);
  }
  pf_region_leave(region);
  return NULL;
}

/* --- what is modified ------------------------------------------------------------------------------------------------------ */

typedef struct {
  const pf_region_t *region;
  double *pairs;
  size_t count, capacity; /* numbers */
  bool no_memory;
} runs_t;

/* Bytes of a run of pages that the user sees. */
static uint64_t run_bytes(const pf_region_t *region, uint64_t first, uint64_t end) {
  uint64_t from = first << region->page_shift, to = end << region->page_shift;
  to = to > region->byte_length ? region->byte_length : to;
  return to > from ? to - from : 0;
}

static void add_run(void *context, uint64_t first, uint64_t end) {
  runs_t *runs = context;
  if (runs->count == runs->capacity) {
    size_t capacity = runs->capacity == 0 ? 64 : runs->capacity * 2;
    double *pairs = realloc(runs->pairs, capacity * sizeof *pairs);
    if (pairs == NULL) {
      runs->no_memory = true;
      return;
    }
    runs->pairs = pairs;
    runs->capacity = capacity;
  }
  runs->pairs[runs->count++] = (double)(first << runs->region->page_shift);
  runs->pairs[runs->count++] = (double)run_bytes(runs->region, first, end);
}

static napi_value numbers(napi_env env, const double *from, size_t count) {
  napi_value buffer = NULL, array = NULL;
  void *to = NULL;
  if (napi_create_arraybuffer(env, count * sizeof *from, &to, &buffer) != napi_ok) {
    return NULL;
  }
  if (count > 0) {
    memcpy(to, from, count * sizeof *from);
  }
  napi_create_typedarray(env, napi_float64_array, count, buffer, 0, &array);
  return array;
}

static napi_value region_dirty(napi_env env, napi_callback_info info) {
  napi_value args[3], result = NULL;
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  runs_t runs = {.region = region};
  uint64_t first, end;
  int err = 0;
  if (region->writable && pf_touched_pages(region, pf_number(env, args[1]), pf_number(env, args[2]), &first, &end)) {
    MASKED(err = pf_region_dirty(region, first, end, add_run, &runs));
  }
  if (err != 0) {
    pf_throw(env, PF_E_SYSTEM, -err, "ioctl(PAGEMAP_SCAN)", "the kernel does not say which pages were written");
  } else if (runs.no_memory) {
    pf_throw(env, PF_E_NO_MEMORY, 0, NULL, "no memory for the list of modified pages");
  } else {
    result = numbers(env, runs.pairs, runs.count);
  }
  free(runs.pairs);
  pf_region_leave(region);
  return result;
}

typedef struct {
  const pf_region_t *region;
  pf_lost_t lost;
} sum_t;

static void add_lost(void *context, uint64_t first, uint64_t end) {
  sum_t *sum = context;
  pf_lost_t *lost = &sum->lost;
  lost->bytes += run_bytes(sum->region, first, end);
  lost->pages += end - first;
  if (lost->runs > 0 && lost->end[lost->runs - 1] == first) {
    lost->end[lost->runs - 1] = end;
  } else if (lost->runs < PF_LOST_RUNS) {
    lost->first[lost->runs] = first;
    lost->end[lost->runs++] = end;
  }
}

pf_lost_t pf_modified(pf_region_t *region) {
  sum_t sum = {.region = region};
  if (region->writable && atomic_load(&region->phase) == PF_PHASE_OPEN) {
    int err;
    MASKED(err = pf_region_dirty(region, 0, region->page_count, add_lost, &sum));
    if (err != 0) {
      return (pf_lost_t){0};
    }
  }
  return sum.lost;
}

static napi_value region_marks(napi_env env, napi_callback_info info) {
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
      out[i] = region->marks != NULL && first + i < region->page_count ? atomic_load(&region->marks[first + i]) : 0;
    }
  }
  pf_region_leave(region);
  return NULL;
}

/* --- forgetting -------------------------------------------------------------------------------------------------------------- */

static napi_value region_discard(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t first, end;
  bool dropped = true;
  if (region->writable && pf_whole_pages(region, pf_number(env, args[1]), pf_number(env, args[2]), &first, &end)) {
    MASKED(dropped = pf_region_discard(region, first, end));
  }
  pf_region_leave(region);
  return dropped ? NULL
                 : pf_throw(env, PF_E_SYSTEM, 0, "madvise", "the kernel refuses to drop pages (is the memory locked?), so some are modified still");
}

static napi_value region_reset_write_detection(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t first, end;
  if (region->writable && pf_whole_pages(region, pf_number(env, args[1]), pf_number(env, args[2]), &first, &end)) {
    MASKED(pf_region_reset_write_detection(region, first, end));
  }
  pf_region_leave(region);
  return NULL;
}

/* --- what is lost ---------------------------------------------------------------------------------------------------------- */

#define LOST_TEXT 320 /* eight numbers of 20 digits, and the words */

__attribute__((format(printf, 2, 3))) static void say(char *text, const char *format, ...) {
  size_t have = strnlen(text, LOST_TEXT - 1);
  va_list list;
  va_start(list, format);
  vsnprintf(text + have, LOST_TEXT - have, format, list);
  va_end(list);
}

/* "8192 bytes that … are lost (pages 0-3, 7 and 12 more)". */
static void describe(const pf_lost_t *lost, char text[LOST_TEXT]) {
  uint64_t named = 0;
  text[0] = '\0';
  say(text, "%llu bytes that were written to it since the last flush are lost (page%s", (unsigned long long)lost->bytes, lost->pages == 1 ? "" : "s");
  for (uint32_t i = 0; i < lost->runs; i++) {
    named += lost->end[i] - lost->first[i];
    say(text, "%s %llu", i == 0 ? "" : named == lost->pages ? " and" : ",", (unsigned long long)lost->first[i]);
    if (lost->end[i] - lost->first[i] > 1) {
      say(text, "-%llu", (unsigned long long)lost->end[i] - 1);
    }
  }
  if (named < lost->pages) {
    say(text, " and %llu more", (unsigned long long)(lost->pages - named));
  }
  say(text, ")");
}

/* The last regions that ended with modified pages. */
#define LOSSES 256
static pf_lock_t losses_lock;
static struct {
  uint64_t region;
  pf_lost_t lost;
  bool told;
  char name[PF_NAME_MAX];
} losses[LOSSES];
static size_t next_loss;

/* losses_lock held. */
static size_t loss_of(uint64_t id) {
  size_t i = 0;
  while (i < LOSSES && losses[i].region != id) {
    i++;
  }
  return i;
}

/* losses_lock held. */
static size_t add_loss(uint64_t id, const char *name, const pf_lost_t *lost) {
  size_t i = next_loss++ % LOSSES;
  losses[i].region = id;
  losses[i].lost = *lost;
  losses[i].told = false;
  snprintf(losses[i].name, sizeof losses[i].name, "%s", name);
  return i;
}

void pf_note_lost(pf_region_t *region) {
  pf_lost_t lost = pf_modified(region);
  if (lost.bytes > 0) {
    sigset_t before;
    pf_mask_signals(&before);
    pf_lock(&losses_lock);
    add_loss(atomic_load(&region->id), region->name, &lost);
    pf_unlock(&losses_lock);
    pf_restore_signals(&before);
  }
}

void pf_report_lost(uint64_t id, const char *name, const pf_lost_t *lost) {
  char line[LOST_TEXT + 2 * PF_NAME_MAX], text[LOST_TEXT];
  int len = 0;
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&losses_lock);
  size_t i = loss_of(id);
  if (i == LOSSES && lost != NULL && lost->bytes > 0) {
    i = add_loss(id, name, lost);
  }
  if (i < LOSSES && !losses[i].told) {
    losses[i].told = true;
    describe(&losses[i].lost, text);
    len = snprintf(line, sizeof line, "pagefault: segment \"%s\" was not closed: %s\n", losses[i].name, text);
  }
  pf_unlock(&losses_lock);
  pf_restore_signals(&before);
  if (len > 0 && write(STDERR_FILENO, line, (size_t)len) < 0) {
    return; /* then there is nobody to be told */
  }
}

void pf_report_unflushed(pf_region_t *region) {
  pf_lost_t lost = pf_modified(region);
  pf_report_lost(atomic_load(&region->id), region->name, &lost);
}

static napi_value region_unflushed(napi_env env, napi_callback_info info) {
  napi_value args[1];
  char text[LOST_TEXT] = "";
  pf_args(env, info, 1, args);
  pf_region_t *region = pf_region_by_id(pf_number(env, args[0]));
  if (region != NULL) {
    pf_lost_t lost = pf_modified(region);
    if (lost.bytes > 0) {
      describe(&lost, text);
    }
    pf_region_leave(region);
  }
  return pf_from_text(env, text);
}

static napi_value region_take_lost(napi_env env, napi_callback_info info) {
  napi_value args[1];
  char text[LOST_TEXT] = "";
  pf_args(env, info, 1, args);
  uint64_t id = pf_number(env, args[0]);
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&losses_lock);
  size_t i = loss_of(id);
  if (i < LOSSES && !losses[i].told) {
    losses[i].told = true;
    describe(&losses[i].lost, text);
  }
  pf_unlock(&losses_lock);
  pf_restore_signals(&before);
  return pf_from_text(env, text);
}

static napi_value region_report_unflushed(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  uint64_t id = pf_number(env, args[0]);
  pf_region_t *region = pf_region_by_id(id);
  if (region != NULL) {
    pf_report_unflushed(region);
    pf_region_leave(region);
  } else {
    pf_report_lost(id, "", NULL);
  }
  return NULL;
}

const pf_export_t pf_write_exports[] = {
    {"regionWrite", region_write},
    {"regionDirty", region_dirty},
    {"regionMarks", region_marks},
    {"regionDiscard", region_discard},
    {"regionResetWriteDetection", region_reset_write_detection},
    {"regionUnflushed", region_unflushed},
    {"regionTakeLost", region_take_lost},
    {"regionReportUnflushed", region_report_unflushed},
    {NULL, NULL},
};
