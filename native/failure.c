/*
 * Why pages failed: the last records of the whole process, found by region and page. A fixed table, so that a handler can write into
 * it; it costs no memory until something fails. One lock, held for one copy.
 */
#include "engine.h"
#include "records.h"

#include <string.h>

#define RECORDS 64

static pf_lock_t lock;
static pf_failure_t records[RECORDS];
_Static_assert(offsetof(pf_failure_t, serial) == offsetof(pf_record_t, serial) &&
                   offsetof(pf_failure_t, region) == offsetof(pf_record_t, region), "begins as a record does");
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
    [PF_E_BUDGET] = {"ERR_PAGEFAULT_BUDGET", "the budget has no room: what is in it is pinned, on its way in, or waits to be written"},
    [PF_E_WRITE] = {"ERR_PAGEFAULT_STORE_WRITE", "what was written could not be brought to the store, and is still in memory"},
    [PF_E_SYNC] = {"ERR_PAGEFAULT_STORE_SYNC", "the store could not make durable what was written; it is still in memory"},
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

/* A dead pager said why it ended; who asks it for something later is told that, too. */
static const char *sentence_for(const pf_region_t *region, pf_code_t code) {
  bool pager = code == PF_E_GONE && region->source.kind == PF_SOURCE_PAGER && region->source.pager != NULL;
  const char *said = pager ? pf_pager_reason(region->source.pager) : "";
  return said[0] != '\0' ? said : reasons[code].sentence;
}

/* A sentence for a reason that has no record. */
static void describe(const pf_region_t *region, uint64_t page, pf_why_t why, pf_failure_t *out) {
  out->region = atomic_load(&region->id);
  out->offset = page << region->page_shift;
  out->why = why;
  out->cause[0] = '\0';
  copy_text(out->message, sizeof out->message, sentence_for(region, why.code));
}

void pf_failure_record(pf_region_t *region, uint64_t page, pf_access_t access, pf_why_t why, const char *message, const char *cause) {
  sigset_t before;
  pf_mask_signals(&before); /* a pager's thread may come here with none masked */
  pf_lock(&lock);
  pf_failure_t *record = &records[last_serial % RECORDS];
  describe(region, page, why, record);
  if (message != NULL && message[0] != '\0') {
    copy_text(record->message, sizeof record->message, message);
  }
  if (why.code == PF_E_TIMEOUT) {
    uint64_t now = pf_now_ns(), longest = 2 * region->timeout_ns + 2000000000ULL;
    pf_stall_append(record->region, page, now > longest ? now - longest : 0, record->message, sizeof record->message);
  }
  if (cause != NULL) {
    copy_text(record->cause, sizeof record->cause, cause);
  }
  record->access = access;
  record->serial = ++last_serial;
  pf_unlock(&lock);
  pf_restore_signals(&before);
}

void pf_failure_record_once(pf_region_t *region, uint64_t page, pf_access_t access, pf_why_t why, uint64_t after) {
  uint64_t id = atomic_load(&region->id);
  bool told = false;
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&lock);
  for (size_t i = 0; !told && i < RECORDS; i++) {
    told = records[i].serial > after && records[i].region == id && records[i].why.code == why.code;
  }
  pf_unlock(&lock);
  pf_restore_signals(&before);
  if (!told) {
    pf_failure_record(region, page, access, why, NULL, NULL);
  }
}

/* What is looked for: a page has records of reads, of first writes and of what was written back, and a sync has those of its region's first page. */
typedef struct {
  uint64_t region, offset;
  uint64_t after;       /* the serial that it is newer than */
  uint32_t first, last; /* pf_access_t */
  pf_code_t code;       /* PF_OK: any */
} wanted_t;

/* lock held. */
static const pf_failure_t *newest(const wanted_t *wanted) {
  const pf_failure_t *found = NULL;
  for (size_t i = 0; i < RECORDS; i++) {
    const pf_failure_t *record = &records[i];
    bool fits = record->serial > wanted->after && record->region == wanted->region && record->offset == wanted->offset &&
                record->access >= wanted->first && record->access <= wanted->last && (wanted->code == PF_OK || record->why.code == wanted->code);
    if (fits && (found == NULL || record->serial > found->serial)) {
      found = record;
    }
  }
  return found;
}

static bool find(const wanted_t *wanted, pf_failure_t *out) {
  pf_lock(&lock);
  const pf_failure_t *record = newest(wanted);
  if (record != NULL) {
    *out = *record;
  }
  pf_unlock(&lock);
  return record != NULL;
}

static bool find_why(const wanted_t *wanted, pf_why_t *out) {
  pf_lock(&lock);
  const pf_failure_t *record = newest(wanted);
  if (record != NULL) {
    *out = record->why;
  }
  pf_unlock(&lock);
  return record != NULL;
}

uint64_t pf_failure_serial(void) { return pf_record_serial(&lock, &last_serial); }

bool pf_failure_find(uint64_t region, uint64_t offset, pf_failure_t *out) {
  return find(&(wanted_t){.region = region, .offset = offset, .last = PF_ASK_SYNC}, out);
}

void pf_failure_of(const pf_region_t *region, uint64_t page, pf_why_t why, pf_failure_t *out) {
  const wanted_t wanted = {.region = atomic_load(&region->id), .offset = page << region->page_shift, .last = PF_ASK_SYNC, .code = why.code};
  if (!find(&wanted, out)) {
    describe(region, page, why, out);
  }
}

bool pf_failure_refused(uint64_t region, uint64_t offset, uint64_t serial, pf_why_t *out) {
  const wanted_t wanted = {.region = region, .offset = offset, .after = serial, .first = PF_ASK_ON_WRITE, .last = PF_ASK_ON_WRITE};
  return find_why(&wanted, out);
}

bool pf_failure_why(uint64_t region, uint64_t offset, pf_why_t *out) {
  return find_why(&(wanted_t){.region = region, .offset = offset, .last = PF_ASK_AHEAD}, out);
}

bool pf_failure_next(uint64_t region, uint64_t serial, pf_failure_t *out) {
  return pf_record_next(&lock, records, RECORDS, sizeof *records, &(pf_record_t){.serial = serial, .region = region}, out);
}
