/*
 * Why pages failed: the last records of the whole process, found by region and page. A fixed table, so that a handler can write into
 * it; it costs no memory until something fails. One lock, held for one copy.
 */
#include "engine.h"

#include <string.h>

#define RECORDS 64

static pf_lock_t lock;
static pf_failure_t records[RECORDS];
static uint64_t last_serial;

static const struct {
  const char *name, *sentence;
} reasons[PF_E_COUNT] = {
    [PF_OK] = {"", ""},
    [PF_E_STORE] = {"ERR_PAGEFAULT_STORE", "the store could not read the page"},
    [PF_E_SHORT] = {"ERR_PAGEFAULT_SHORT_READ", "the store returned fewer bytes than the page has (was the file truncated?)"},
    [PF_E_LONG] = {"ERR_PAGEFAULT_LONG_READ", "the store returned more bytes than the page has"},
    [PF_E_CHANGED] = {"ERR_PAGEFAULT_STORE_CHANGED",
                      "the file was changed or replaced while it was mapped; invalidate() accepts it as it is now"},
    [PF_E_TIMEOUT] = {"ERR_PAGEFAULT_TIMEOUT",
                      "the store did not answer within faultTimeoutMs (is it waiting for the thread that waits for it?)"},
    [PF_E_GONE] = {"ERR_PAGEFAULT_STORE_GONE", "the Worker that runs the store has ended"},
    [PF_E_DEADLOCK] = {"ERR_PAGEFAULT_DEADLOCK",
                       "a store touched a page that only its own Worker can bring; a store must not use segments served by its Worker"},
    [PF_E_CLOSED] = {"ERR_PAGEFAULT_CLOSED", "segment closed"},
    [PF_E_NO_MEMORY] = {"ERR_PAGEFAULT_NO_MEMORY", "the kernel has no memory or no mapping left for the page"},
    [PF_E_BUDGET] = {"ERR_PAGEFAULT_BUDGET", "the budget has no room: everything in it is pinned"},
    [PF_E_ABORTED] = {"ERR_PAGEFAULT_ABORTED", "the operation was aborted"},
    [PF_E_SYSTEM] = {"ERR_PAGEFAULT_SYSTEM", "a system call failed unexpectedly"},
};

const char *pf_code_name(pf_code_t code) { return reasons[code].name; }

/* strlcpy: no stdio in a handler. */
static void copy_text(char *to, size_t size, const char *from) {
  size_t len = strnlen(from, size - 1);
  memcpy(to, from, len);
  to[len] = '\0';
}

void pf_failure_describe(const pf_region_t *region, uint64_t page, pf_why_t why, pf_failure_t *out) {
  out->region = atomic_load(&region->id);
  out->offset = page << region->page_shift;
  out->why = why;
  out->cause[0] = '\0';
  copy_text(out->message, sizeof out->message, reasons[why.code].sentence);
}

void pf_failure_record(pf_region_t *region, uint64_t page, pf_why_t why, const char *message, const char *cause) {
  sigset_t before;
  pf_mask_signals(&before); /* a pager's thread may come here with none masked */
  pf_lock(&lock);
  pf_failure_t *record = &records[last_serial % RECORDS];
  pf_failure_describe(region, page, why, record);
  if (message != NULL && message[0] != '\0') {
    copy_text(record->message, sizeof record->message, message);
  }
  if (cause != NULL) {
    copy_text(record->cause, sizeof record->cause, cause);
  }
  record->serial = ++last_serial;
  pf_unlock(&lock);
  pf_restore_signals(&before);
}

/* lock held. */
static const pf_failure_t *newest_of(uint64_t region, uint64_t offset) {
  const pf_failure_t *newest = NULL;
  for (size_t i = 0; i < RECORDS; i++) {
    const pf_failure_t *record = &records[i];
    if (record->serial > 0 && record->region == region && record->offset == offset && (newest == NULL || record->serial > newest->serial)) {
      newest = record;
    }
  }
  return newest;
}

bool pf_failure_find(uint64_t region, uint64_t offset, pf_failure_t *out) {
  pf_lock(&lock);
  const pf_failure_t *record = newest_of(region, offset);
  if (record != NULL) {
    *out = *record;
  }
  pf_unlock(&lock);
  return record != NULL;
}

bool pf_failure_why(uint64_t region, uint64_t offset, pf_why_t *out) {
  pf_lock(&lock);
  const pf_failure_t *record = newest_of(region, offset);
  if (record != NULL) {
    *out = record->why;
  }
  pf_unlock(&lock);
  return record != NULL;
}

bool pf_failure_next(uint64_t region, uint64_t serial, pf_failure_t *out) {
  const pf_failure_t *oldest = NULL;
  pf_lock(&lock);
  for (size_t i = 0; i < RECORDS; i++) {
    if (records[i].region == region && records[i].serial > serial && (oldest == NULL || records[i].serial < oldest->serial)) {
      oldest = &records[i];
    }
  }
  if (oldest != NULL) {
    *out = *oldest;
  }
  pf_unlock(&lock);
  return oldest != NULL;
}
