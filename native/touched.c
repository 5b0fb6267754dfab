/*
 * Working sets. Noted: the order in which pages of a region were first needed, from any thread, in the signal handler too; no lock is taken and no memory
 * allocated there. A bit for each page says that it is noted, and whoever sets it takes the next entry of an array of fixed length. An entry counts once its page
 * is written, the time before it; a reader passes over those that are being written.
 * Replayed: pages of an earlier run are loaded ahead in that order, by a thread of the loader, which owns what it loads as any other that reads ahead.
 */
#include "touched.h"

#include <errno.h>

#define PAUSE_NS 500000ULL /* until the pager has a slot again */
#define REPORT_NS 50000000ULL

typedef struct {
  _Atomic uint64_t at_ns;
  _Atomic uint64_t page; /* + 1; 0: not written yet */
} entry_t;

struct pf_touched {
  size_t len; /* of all this */
  uint64_t began_ns;
  uint32_t most;
  _Atomic uint64_t used; /* entries taken, those beyond `most` too */
  entry_t *entries;
  _Atomic uint8_t bits[];
};

static size_t entries_per_page(void) { return pf_os_page_size() / sizeof(entry_t); }

int pf_touched_start(pf_region_t *region, uint32_t most) {
  size_t bits = (sizeof(pf_touched_t) + region->page_count / 8 + 8) & ~(size_t)7;
  size_t len = bits + (size_t)most * sizeof(entry_t);
  void *memory;
  pf_touched_t *none = NULL;
  int err = pf_mem_reserve(len, "pagefault touched", &memory);
  if (err != 0) {
    return err;
  }
  pf_touched_t *touched = memory;
  touched->len = len;
  touched->began_ns = pf_now_ns();
  touched->most = most;
  touched->entries = (entry_t *)((uint8_t *)memory + bits);
  if (!atomic_compare_exchange_strong(&region->touched, &none, touched)) {
    pf_mem_unmap(memory, len);
    return -EEXIST;
  }
  if (region->budget != NULL) {
    pf_budget_overhead(region->budget, (int64_t)bits);
  }
  return 0;
}

static void note(pf_region_t *region, pf_touched_t *touched, uint64_t page, uint64_t now) {
  _Atomic uint8_t *bits = &touched->bits[page / 8];
  uint8_t bit = (uint8_t)(1u << (page % 8));
  if ((atomic_load_explicit(bits, memory_order_relaxed) & bit) || (atomic_fetch_or(bits, bit) & bit)) {
    return;
  }
  uint64_t place = atomic_fetch_add(&touched->used, 1);
  if (place >= touched->most) {
    return;
  }
  if (region->budget != NULL && place % entries_per_page() == 0) {
    pf_budget_overhead(region->budget, (int64_t)pf_os_page_size());
  }
  atomic_store_explicit(&touched->entries[place].at_ns, now, memory_order_relaxed);
  atomic_store_explicit(&touched->entries[place].page, page + 1, memory_order_release);
}

void pf_touched_note(pf_region_t *region, uint64_t page, uint32_t count) {
  pf_touched_t *touched = atomic_load_explicit(&region->touched, memory_order_acquire);
  if (touched == NULL) {
    return;
  }
  uint64_t now = pf_now_ns();
  for (uint32_t i = 0; i < count; i++) {
    note(region, touched, page + i, now);
  }
}

uint32_t pf_touched_count(const pf_region_t *region) {
  const pf_touched_t *touched = atomic_load(&region->touched);
  uint64_t used = touched == NULL ? 0 : atomic_load(&touched->used);
  return touched == NULL ? 0 : used < touched->most ? (uint32_t)used : touched->most;
}

uint32_t pf_touched_read(const pf_region_t *region, uint32_t *pages, double *at_us, uint32_t most, uint64_t *missed) {
  const pf_touched_t *touched = atomic_load(&region->touched);
  uint64_t used = touched == NULL ? 0 : atomic_load(&touched->used);
  uint32_t count = touched == NULL || used < touched->most ? (uint32_t)used : touched->most, read = 0;
  *missed = used - count;
  for (uint32_t i = 0; i < count && read < most; i++) {
    uint64_t page = atomic_load_explicit(&touched->entries[i].page, memory_order_acquire);
    if (page != 0) {
      uint64_t at_ns = atomic_load_explicit(&touched->entries[i].at_ns, memory_order_relaxed);
      pages[read] = (uint32_t)(page - 1);
      at_us[read++] = (double)(at_ns - touched->began_ns) / 1000;
    }
  }
  return read;
}

int64_t pf_touched_overhead(pf_region_t *region) {
  const pf_touched_t *touched = atomic_load(&region->touched);
  if (touched == NULL) {
    return 0;
  }
  size_t filled = (pf_touched_count(region) + entries_per_page() - 1) / entries_per_page();
  return (int64_t)((size_t)((const uint8_t *)touched->entries - (const uint8_t *)touched) + filled * pf_os_page_size());
}

void pf_touched_free(pf_region_t *region) {
  pf_touched_t *touched = atomic_exchange(&region->touched, NULL);
  if (touched != NULL) {
    pf_mem_unmap(touched, touched->len);
  }
}

/* --- loading ahead ------------------------------------------------------------------------------------------------------- */

static void report(pf_job_t *job, uint64_t *reported) {
  if (job->progress != NULL && pf_now_ns() - *reported > REPORT_NS) {
    *reported = pf_now_ns();
    job->progress(job);
  }
}

/* False: it is to end, with the reason in job->why, or because there is no more room. */
static bool goes_on(pf_job_t *job, const pf_wait_t *wait, uint32_t want) {
  pf_region_t *region = job->region;
  if (pf_must_stop(region, wait, &job->why)) {
    return false;
  }
  if (region->source.kind == PF_SOURCE_PAGER && pf_pager_is_dead(region->source.pager)) {
    job->why = (pf_why_t){.code = PF_E_GONE};
    return false;
  }
  return region->budget == NULL || pf_budget_has_room(region, want);
}

/* False: the end. */
static bool replay_run(pf_job_t *job, const pf_wait_t *wait, uint64_t page, uint64_t end, uint64_t *reported) {
  pf_region_t *region = job->region;
  while (page < end) {
    uint32_t want = end - page < region->window_max ? (uint32_t)(end - page) : region->window_max;
    job->failed_page = page;
    if (!goes_on(job, wait, want)) {
      return false;
    }
    uint32_t done = pf_pages_bring_ahead(region, page, want, wait);
    if (done == 0) {
      pf_sleep_until(pf_now_ns() + PAUSE_NS);
    }
    page += done;
    atomic_fetch_add(&job->pages_done, done);
    report(job, reported);
  }
  return true;
}

static bool is_on_its_way(const pf_region_t *region, uint64_t page) {
  unsigned state = atomic_load(&region->states[page]) & PF_STATE;
  return state == PF_LOADING || state == PF_INSTALLING;
}

/* What was asked of a pager is on its way: until it is there, or is nobody's again. */
static void await_answers(pf_job_t *job, const uint32_t *pairs, size_t count) {
  pf_region_t *region = job->region;
  for (size_t i = 0; i < count; i++) {
    uint64_t reach = atomic_load(&region->reach), end = (uint64_t)pairs[2 * i] + pairs[2 * i + 1];
    for (uint64_t page = pairs[2 * i]; page < end && page < reach; page++) {
      pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns, .cancel = &job->cancel, .background = true};
      while (is_on_its_way(region, page) && pf_now_ns() < wait.deadline_ns) {
        if (pf_must_stop(region, &wait, &job->why)) {
          return;
        }
        pf_sleep_until(pf_now_ns() + PAUSE_NS);
      }
    }
  }
}

void pf_replay_run(pf_job_t *job) {
  const uint32_t *pairs = (const uint32_t *)(const void *)job->bytes;
  size_t count = (size_t)job->len / (2 * sizeof *pairs), i = 0;
  uint64_t reported = pf_now_ns();
  pf_wait_t wait = {.cancel = &job->cancel, .background = true};
  for (bool more = true; more && i < count; i++) {
    uint64_t reach = atomic_load(&job->region->reach), end = (uint64_t)pairs[2 * i] + pairs[2 * i + 1];
    more = replay_run(job, &wait, pairs[2 * i], end < reach ? end : reach, &reported);
  }
  if (job->why.code == PF_OK && job->region->source.kind == PF_SOURCE_PAGER) {
    await_answers(job, pairs, i);
  }
}
