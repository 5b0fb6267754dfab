/*
 * Page tables are memory too: the kernel keeps 4 KiB of them for each 2 MiB of addresses in which anything was ever touched, and does not
 * give them back with the pages. A segment that is touched here and there over many GiB would need as much for tables as for pages. So, where
 * there is a budget, tables count in it, and the last page that leaves a block of 2 MiB takes the block's table along:
 *
 *     the pages of the block are all ABSENT ──▶ all EVICTING ──▶ one MADV_DONTNEED of the whole block ──▶ all ABSENT
 *
 * The kernel frees a table only when the whole of it is dropped at once (6.14, CONFIG_PT_RECLAIM); before that, tables only count.
 */
#include "engine.h"
#include "task.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK_SHIFT 21
#define HAS_TABLE 0x8000u
#define COUNT 0x7fffu
#define REFUSALS 8
#define WORTH_SHARE 32 /* tables are given back once they take more than this part of the budget */

#define EVERY(byte) (0x0101010101010101ULL * (byte))

static unsigned pages_shift(const pf_region_t *region) { return BLOCK_SHIFT - region->page_shift; }

static int64_t table_bytes(const pf_region_t *region) {
  bool twice = region->backend != PF_BACKEND_SIGNAL || region->source.kind == PF_SOURCE_PAGER || region->writable; /* mapped twice, or staged elsewhere */
  return (int64_t)pf_os_page_size() * (twice ? 2 : 1);
}

int pf_blocks_make(pf_region_t *region) {
  bool worth = region->budget != NULL && pages_shift(region) >= 3 && ((uintptr_t)region->base & (((uintptr_t)1 << BLOCK_SHIFT) - 1)) == 0 &&
               region->length > (size_t)1 << BLOCK_SHIFT;
  if (!worth) {
    return 0;
  }
  void *blocks;
  region->blocks_len = ((region->length >> BLOCK_SHIFT) + 1) * sizeof *region->blocks;
  int err = pf_mem_reserve(region->blocks_len, "pagefault blocks", &blocks);
  region->blocks = err == 0 ? blocks : NULL;
  return err;
}

void pf_blocks_free(pf_region_t *region) {
  if (region->blocks != NULL) {
    pf_mem_unmap(region->blocks, region->blocks_len);
    region->blocks = NULL;
  }
}

int64_t pf_blocks_overhead(pf_region_t *region) { return (int64_t)atomic_exchange(&region->tables, 0) * table_bytes(region); }

void pf_block_enter(pf_region_t *region, uint64_t page) {
  if (region->blocks == NULL) {
    return;
  }
  _Atomic uint16_t *block = &region->blocks[page >> pages_shift(region)];
  uint16_t before = atomic_fetch_add(block, 1);
  if (!(before & HAS_TABLE) && !(atomic_fetch_or(block, HAS_TABLE) & HAS_TABLE)) {
    atomic_fetch_add(&region->tables, 1);
    pf_budget_overhead(region->budget, table_bytes(region));
  }
}

/* --- giving back ------------------------------------------------------------------------------------------------------------ */

/* VmPTE of this process in KiB; -1 if it cannot be read. Handler-safe. */
static long tables_now(void) {
  char text[2048];
  if (pf_task_read(getpid(), "status", text, sizeof text) < 0) {
    return -1;
  }
  const char *at = strstr(text, "VmPTE:");
  long kib = 0;
  for (at = at == NULL ? "" : at + 6; *at == ' ' || *at == '\t'; at++) {
  }
  for (; *at >= '0' && *at <= '9'; at++) {
    kib = kib * 10 + (*at - '0');
  }
  return kib;
}

/* On memory of our own: 1: the kernel gave its tables back; 0: not; -1: that cannot be told now. */
static int try_reclaim(void) {
  enum { TABLES = 64 };
  size_t block = (size_t)1 << BLOCK_SHIFT, len = TABLES * block;
  void *area;
  if (pf_mem_reserve(len + block, "pagefault probe", &area) != 0) {
    return -1;
  }
  uint8_t *start = (uint8_t *)(((uintptr_t)area + block - 1) >> BLOCK_SHIFT << BLOCK_SHIFT);
  for (size_t i = 0; i < TABLES; i++) {
    start[i << BLOCK_SHIFT] = 1;
  }
  long before = tables_now();
  madvise(start, len, MADV_DONTNEED);
  long after = tables_now();
  pf_mem_unmap(area, len + block);
  return before < 0 || after < 0 ? -1 : (before - after) / 4 >= TABLES / 2;
}

/* Whether this kernel gives tables back. One thread at a time tries, because the tables that others make meanwhile count as not given back; for the same reason "no"
 * is believed only when it was heard again and again. */
static bool kernel_reclaims(void) {
  static _Atomic int known; /* 0 not known, 1 yes, 2 no, 3 somebody is trying */
  static _Atomic int refusals;
  int answer = 0;
  if (!atomic_compare_exchange_strong(&known, &answer, 3)) {
    return answer == 1;
  }
  int given = try_reclaim();
  bool no = given == 0 && atomic_fetch_add(&refusals, 1) + 1 == REFUSALS;
  atomic_store(&known, given > 0 ? 1 : no ? 2 : 0);
  return given > 0;
}

/* Eight states at once: ABSENT and nothing set but QUEUED, else not. */
static bool claim_eight(_Atomic uint64_t *word) {
  uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
  return (seen & ~EVERY(PF_QUEUED)) == 0 && atomic_compare_exchange_strong(word, &seen, seen | EVERY(PF_EVICTING));
}

static void settle_eight(_Atomic uint64_t *word) {
  uint64_t seen = atomic_fetch_and(word, ~EVERY(PF_STATE | PF_WAITED));
  if (seen & EVERY(PF_WAITED)) {
    pf_futex_wake_all(word);
    pf_futex_wake_all((uint32_t *)word + 1);
  }
}

static void drop_block(pf_region_t *region, uint64_t block) {
  size_t at = (size_t)block << BLOCK_SHIFT;
  pf_mem_drop(region->base + at, (size_t)1 << BLOCK_SHIFT);
  if (region->ours != NULL) {
    pf_mem_drop(region->ours + at, (size_t)1 << BLOCK_SHIFT); /* shared memory: unmapped, not freed, and there is nothing in it */
  }
}

static void give_back(pf_region_t *region, uint64_t block) {
  size_t words = (size_t)1 << (pages_shift(region) - 3);
  _Atomic uint64_t *first = (_Atomic uint64_t *)&region->states[block << pages_shift(region)];
  size_t claimed = 0;
  while (claimed < words && claim_eight(&first[claimed])) {
    claimed++;
  }
  if (claimed == words && (atomic_fetch_and(&region->blocks[block], COUNT) & HAS_TABLE)) {
    drop_block(region, block);
    atomic_fetch_sub(&region->tables, 1);
    pf_budget_overhead(region->budget, -table_bytes(region));
  }
  while (claimed > 0) {
    settle_eight(&first[--claimed]);
  }
}

void pf_block_leave(pf_region_t *region, uint64_t page) {
  if (region->blocks == NULL) {
    return;
  }
  uint64_t block = page >> pages_shift(region);
  bool last = (atomic_fetch_sub(&region->blocks[block], 1) & COUNT) == 1;
  bool whole = (block + 1) << BLOCK_SHIFT <= region->length;
  if (last && whole && pf_budget_is_strained(region->budget, WORTH_SHARE) && kernel_reclaims()) {
    give_back(region, block);
  }
}
