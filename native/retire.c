/*
 * Writing back: pages that are closed leave memory, the dirty ones once the store has them. What it refuses stays, STAGED, and is offered again when
 * room is needed. Any thread, in a signal handler too; pages of stores in JavaScript are written by their pager, and go when it has answered.
 */
#include "budget.h"

uint64_t pf_pages_leave(pf_region_t *region, const uint64_t *pages, uint32_t count) {
  if (count == 0) {
    return 0;
  }
  pf_budget_uncharge(region, count);
  for (uint32_t i = 0; i < count; i++) {
    pf_unmark(region, pages[i], PF_M_OF_MEMORY);
    pf_page_settle(region, pages[i], PF_ABSENT);
  }
  return (uint64_t)count << region->page_shift;
}

/* Pages that are EVICTING and closed go. Their bytes are with the store, or not wanted. */
static uint64_t leave_memory(pf_region_t *region, uint64_t *pages, uint32_t count) {
  if (count > 0) {
    pf_pages_forget(region, pages, count);
  }
  return pf_pages_leave(region, pages, count);
}

typedef struct {
  pf_region_t *region;
  uint64_t freed;
} retiring_t;

static void keep_run(pf_region_t *region, uint64_t first, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    uint64_t page = first + i;
    pf_budget_staged(region, (int64_t)pf_page_size(region));
    pf_pages_keep_staged(region, &page, 1);
  }
}

/* Before the write, so that a sync that fails meanwhile finds them; and after it, so that one that began before it and does well leaves them. */
static void owe(pf_region_t *region, uint64_t first, uint32_t count) {
  unsigned mark = atomic_load(&region->syncs) & 1 ? PF_M_OWED_1 : PF_M_OWED_0;
  for (uint32_t i = 0; region->source.kind != PF_SOURCE_MEMORY && i < count; i++) {
    pf_mark(region, first + i, mark);
  }
}

static void note_write_back(pf_region_t *region, uint64_t first, uint32_t count) {
  owe(region, first, count);
  atomic_store(&region->unsynced, 1); /* after the write, before the marks go: a flush must find one or the other */
  atomic_fetch_add(&region->counters.write_backs, count);
  atomic_fetch_add(&region->counters.bytes_written, pf_stored_bytes(region, first, count));
}

static uint64_t leave_written(pf_region_t *region, uint64_t first, uint32_t count) {
  uint64_t pages[PF_BATCH_MAX];
  for (uint32_t i = 0; i < count; i++) {
    pages[i] = first + i;
  }
  note_write_back(region, first, count);
  return leave_memory(region, pages, count);
}

static void note_write_failure(pf_region_t *region, uint64_t page, pf_why_t why) {
  pf_budget_t *budget = region->budget;
  uint64_t now = pf_now_ns(), last = atomic_load(&region->write_failure_at);
  atomic_fetch_add(&region->counters.write_failures, 1);
  if (region->source.kind != PF_SOURCE_PAGER && now - last > 1000000000ULL && atomic_compare_exchange_strong(&region->write_failure_at, &last, now)) {
    pf_failure_record(region, page, PF_ASK_WRITE, why, NULL, NULL);
  }
  if (budget != NULL) {
    atomic_store(&budget->write_errno, why.err);
    atomic_fetch_add(&budget->write_failures, 1);
  }
}

static void write_back_run(void *context, uint64_t first, uint32_t count) {
  retiring_t *retiring = context;
  pf_region_t *region = retiring->region;
  pf_why_t why = {0};
  if (first + count > region->store_pages) { /* behind the store's end: there is nowhere to write it, so it stays */
    uint32_t inside = first < region->store_pages ? (uint32_t)(region->store_pages - first) : 0;
    keep_run(region, first + inside, count - inside);
    if (inside > 0) {
      write_back_run(context, first, inside);
    }
    return;
  }
  if (region->source.kind == PF_SOURCE_PAGER) {
    uint32_t most = (uint32_t)(PF_WRITE_MAX >> region->page_shift);
    for (uint32_t part; count > 0; first += part, count -= part) {
      part = most == 0 ? 1 : count < most ? count : most;
      owe(region, first, part);
      if (!pf_pager_ask_write_back(region, first, part)) {
        keep_run(region, first, part);
      }
    }
    return;
  }
  pf_about_to_block();
  atomic_fetch_add(&region->counters.store_writes, 1);
  owe(region, first, count);
  size_t bytes = pf_stored_bytes(region, first, count);
  if (!pf_source_look(&region->source, &why) || !pf_source_write(&region->source, first << region->page_shift, pf_ours(region, first), bytes, &why)) {
    note_write_failure(region, first, why);
    keep_run(region, first, count);
    return;
  }
  retiring->freed += leave_written(region, first, count);
}

uint64_t pf_pages_retire(pf_region_t *region, uint64_t *pages, uint32_t count) {
  uint64_t clean[PF_BATCH_MAX], dirty[PF_BATCH_MAX];
  uint32_t clean_count = 0, dirty_count = 0;
  bool open = atomic_load(&region->phase) == PF_PHASE_OPEN; /* nobody is left who could flush */
  for (uint32_t i = 0; i < count; i++) {
    unsigned marks = pf_marks(region, pages[i]);
    if (open && (marks & (PF_M_DIRTY | PF_M_STICKY)) && !(marks & PF_M_DISCARD)) {
      dirty[dirty_count++] = pages[i];
    } else {
      clean[clean_count++] = pages[i];
    }
  }
  retiring_t retiring = {.region = region, .freed = leave_memory(region, clean, clean_count)};
  pf_runs(region, dirty, dirty_count, write_back_run, &retiring);
  return retiring.freed;
}

void pf_pages_written_back(pf_region_t *region, uint64_t first, uint32_t count, pf_why_t why) {
  if (why.code != PF_OK) {
    if (why.code != PF_E_CLOSED) {
      note_write_failure(region, first, why);
    }
    keep_run(region, first, count);
    return;
  }
  leave_written(region, first, count);
}
