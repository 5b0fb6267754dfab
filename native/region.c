/*
 * The regions of the process: made, found, closed, freed.
 *
 * Finding is the first thing a fault does, so it takes no lock: a table sorted by address, read under a sequence counter. Whoever
 * finds a region enters it (users + 1) and then looks at the counter again (entries are read with acquire and written with release, so that neither
 * passes the counter); a region is only unmapped when it has left the table
 * and users is 0. The structs live in one reserved array and are never given back, so that a reader that comes too late still
 * counts up and down in a valid place.
 *
 * Writers hold `registry` with signals masked. Life of a region: FREE → OPEN (pf_region_create) → CLOSED (pf_region_close: nothing loads
 * any more) → FREE (pf_region_reap, when the memory's buffer is gone and nobody is inside).
 */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOT_BITS 20
#define MAX_REGIONS ((size_t)1 << SLOT_BITS)
#define SMALL_TABLE ((size_t)1 << 16) /* state tables below come from malloc: no mapping of their own */

typedef struct {
  _Atomic uintptr_t start, end;
  _Atomic(pf_region_t *) region;
} range_t;

static pf_lock_t registry;
static _Atomic uint64_t sequence; /* odd while `table` changes */
static range_t *table;
static _Atomic size_t table_count;
static pf_region_t *slots;
static size_t slots_used;
static uint32_t *free_slots; /* stack */
static size_t free_count;
static _Atomic uint32_t open_count; /* regions not FREE */
static pf_region_t *closed_regions; /* list */

/* --- finding ---------------------------------------------------------------------------------------------------- */

/* Index of the first range that ends above addr. */
static size_t lower_bound(uintptr_t addr, size_t count) {
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (atomic_load_explicit(&table[middle].end, memory_order_acquire) <= addr) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/* Enters what `pick` says, if the table did not change meanwhile; the loop ends because writers are few and brief. */
static pf_region_t *enter_consistently(uintptr_t addr, pf_region_t *(*pick)(uintptr_t addr, uintptr_t *extra), uintptr_t *extra) {
  for (;;) {
    uint64_t before = atomic_load(&sequence);
    if (before & 1) {
      continue;
    }
    pf_region_t *region = pick(addr, extra);
    if (region != NULL) {
      atomic_fetch_add(&region->users, 1);
    }
    if (atomic_load(&sequence) == before) {
      return region;
    }
    if (region != NULL) {
      atomic_fetch_sub(&region->users, 1);
    }
  }
}

static pf_region_t *pick_at(uintptr_t addr, uintptr_t *extra) {
  (void)extra;
  size_t count = atomic_load(&table_count);
  size_t i = lower_bound(addr, count);
  if (i == count || atomic_load_explicit(&table[i].start, memory_order_acquire) > addr) {
    return NULL;
  }
  return atomic_load_explicit(&table[i].region, memory_order_acquire);
}

pf_region_t *pf_region_at(uintptr_t addr) { return enter_consistently(addr, pick_at, NULL); }

static pf_region_t *pick_next(uintptr_t addr, uintptr_t *extra) {
  (void)extra;
  size_t count = atomic_load(&table_count);
  size_t i = lower_bound(addr, count);
  return i == count ? NULL : atomic_load_explicit(&table[i].region, memory_order_acquire);
}

pf_region_t *pf_region_next(uintptr_t addr) { return enter_consistently(addr, pick_next, NULL); }

static pf_region_t *pick_near(uintptr_t addr, uintptr_t *distance) {
  size_t count = atomic_load(&table_count);
  if (count == 0) {
    return NULL;
  }
  size_t above = lower_bound(addr, count);
  uintptr_t up = above < count ? atomic_load(&table[above].start) - addr : UINTPTR_MAX;
  uintptr_t down = above > 0 ? addr - atomic_load(&table[above - 1].end) : UINTPTR_MAX;
  *distance = up < down ? up : down;
  return atomic_load(&table[up < down ? above : above - 1].region);
}

pf_region_t *pf_region_near(uintptr_t addr, uintptr_t *distance) { return enter_consistently(addr, pick_near, distance); }

void pf_region_leave(pf_region_t *region) { atomic_fetch_sub(&region->users, 1); }

pf_region_t *pf_region_by_id(uint64_t id) {
  size_t slot = id & (MAX_REGIONS - 1);
  if (id == 0 || slots == NULL || slot >= MAX_REGIONS) {
    return NULL;
  }
  pf_region_t *region = &slots[slot];
  atomic_fetch_add(&region->users, 1);
  if (atomic_load(&region->id) == id) {
    return region;
  }
  atomic_fetch_sub(&region->users, 1);
  return NULL;
}

unsigned pf_region_count(void) { return atomic_load(&open_count); }

/* --- the table's writers (registry held) ------------------------------------------------------------------------- */

static void store_range(size_t i, uintptr_t start, uintptr_t end, pf_region_t *region) {
  atomic_store_explicit(&table[i].start, start, memory_order_release);
  atomic_store_explicit(&table[i].end, end, memory_order_release);
  atomic_store_explicit(&table[i].region, region, memory_order_release);
}

static void move_range(size_t to, size_t from) {
  store_range(to, atomic_load_explicit(&table[from].start, memory_order_relaxed), atomic_load_explicit(&table[from].end, memory_order_relaxed),
              atomic_load_explicit(&table[from].region, memory_order_relaxed));
}

static void table_insert(pf_region_t *region) {
  uintptr_t start = (uintptr_t)region->base;
  size_t count = atomic_load(&table_count);
  size_t at = lower_bound(start, count);
  atomic_fetch_add(&sequence, 1);
  for (size_t i = count; i > at; i--) {
    move_range(i, i - 1);
  }
  store_range(at, start, start + region->length, region);
  atomic_store(&table_count, count + 1);
  atomic_fetch_add(&sequence, 1);
}

static void table_remove(pf_region_t *region) {
  size_t count = atomic_load(&table_count);
  size_t at = lower_bound((uintptr_t)region->base, count);
  if (at == count || atomic_load(&table[at].region) != region) {
    return;
  }
  atomic_fetch_add(&sequence, 1);
  for (size_t i = at; i + 1 < count; i++) {
    move_range(i, i + 1);
  }
  atomic_store(&table_count, count - 1);
  atomic_fetch_add(&sequence, 1);
}

static bool table_overlaps(const uint8_t *base, size_t len) {
  size_t count = atomic_load(&table_count);
  size_t at = lower_bound((uintptr_t)base, count);
  return at < count && atomic_load(&table[at].start) < (uintptr_t)base + len;
}

/* --- making -------------------------------------------------------------------------------------------------------- */

static int start_registry(void) {
  if (slots != NULL) {
    return 0;
  }
  void *ranges, *regions, *stack;
  int err = pf_mem_reserve(MAX_REGIONS * sizeof *table, "pagefault regions", &ranges);
  if (err == 0) {
    err = pf_mem_reserve(MAX_REGIONS * sizeof *free_slots, "pagefault regions", &stack);
  }
  if (err == 0) {
    err = pf_mem_reserve(MAX_REGIONS * sizeof *slots, "pagefault regions", &regions);
  }
  if (err == 0) {
    table = ranges;
    free_slots = stack;
    slots = regions;
    slots_used = 1; /* id 0 means none */
  }
  return err;
}

/* A FREE struct, zeroed but for what outlives its use (users and the generation in `generations`). */
static pf_region_t *take_slot(void) {
  if (free_count > 0) {
    return &slots[free_slots[--free_count]];
  }
  return slots_used < MAX_REGIONS ? &slots[slots_used++] : NULL;
}

static void give_slot(pf_region_t *region) { free_slots[free_count++] = (uint32_t)(region - slots); }

static int map_memory(pf_region_t *region, uint8_t *into, const char **step) {
  bool twice = region->backend == PF_BACKEND_MPROTECT;
  size_t block = (size_t)1 << PF_PAGE_SHIFT_MAX; /* whole page tables, for block.c */
  size_t align = region->budget != NULL && region->length > block ? block : pf_page_size(region);
  uint8_t *ours = NULL;
  int err;
  *step = "mmap";
  if (into != NULL) {
    region->foreign = true;
    region->base = into;
    if (twice) {
      err = pf_mem_map_twice_at(into, region->length, region->name, &ours);
      atomic_store(&region->ours, ours);
      return err;
    }
    err = pf_mem_drop(into, region->length);
    err = err != 0 ? err : pf_mem_not_inherited(into, region->length);
    err = err != 0 ? err : pf_mem_protect(into, region->length, PROT_READ);
  } else if (twice) {
    err = pf_mem_map_twice(region->length, align, region->name, &region->base, &ours);
    atomic_store(&region->ours, ours);
    return err;
  } else {
    err = pf_mem_map_region(region->length, align, PROT_READ, region->name, &region->base);
  }
  if (err == 0 && !twice) {
    *step = "ioctl(UFFDIO_REGISTER)";
    err = pf_own_uffd_register(region->base, region->length);
    if (err != 0 && !region->foreign) {
      pf_mem_unmap_region(region->base, region->length);
    }
  }
  if (err != 0 && into != NULL) { /* the caller's again, empty */
    pf_mem_protect(into, region->length, PROT_READ | PROT_WRITE);
  }
  return err;
}

static void unmap_memory(pf_region_t *region) {
  if (!region->foreign) {
    pf_mem_unmap_region(region->base, region->length);
  }
  if (region->ours != NULL) {
    pf_mem_unmap(region->ours, region->length);
  }
}

static int make_tables(pf_region_t *region) {
  size_t len = region->page_count;
  if (len < SMALL_TABLE) {
    region->states = calloc((len + 3) & ~(size_t)3, 1); /* whole futex words */
    return region->states == NULL ? -ENOMEM : 0;
  }
  void *states;
  int err = pf_mem_reserve(len, "pagefault states", &states);
  if (err != 0) {
    return err;
  }
  region->states = states;
  region->states_len = len;
  if (region->budget != NULL) {
    region->table_pages = calloc(len / pf_os_page_size() / 8 + 1, 1);
    return region->table_pages == NULL ? -ENOMEM : 0;
  }
  return 0;
}

static void free_tables(pf_region_t *region) {
  if (region->states_len != 0) {
    pf_mem_unmap(region->states, region->states_len);
  } else {
    free(region->states);
  }
  free(region->table_pages);
  pf_blocks_free(region);
  if (region->pins != NULL) {
    pf_mem_unmap(region->pins, region->page_count * sizeof *region->pins);
  }
}

static void fill_in(pf_region_t *region, const pf_region_options_t *options) {
  unsigned shift = 0;
  while (((size_t)1 << shift) < options->page_size) {
    shift++;
  }
  /* Everything but id and users, which late readers may still be looking at. */
  memset((char *)region + offsetof(pf_region_t, phase), 0, sizeof *region - offsetof(pf_region_t, phase));
  region->holders = 1;
  region->backend = options->backend;
  region->unreadable_zero = options->unreadable_zero;
  region->shared = options->shared;
  region->page_shift = (uint8_t)shift;
  region->byte_length = options->byte_length;
  region->store_length = options->store_length;
  region->page_count = (options->byte_length + options->page_size - 1) >> shift;
  region->length = region->page_count << shift;
  region->timeout_ns = options->timeout_ms * 1000000ULL;
  region->readahead_pages = options->readahead < 0 ? -1 : (int32_t)(options->readahead >> shift);
  region->window_max = (uint32_t)(PF_SCRATCH_MIN >> shift);
  region->window_max = region->window_max == 0 ? 1 : region->window_max > PF_BATCH_MAX ? PF_BATCH_MAX : region->window_max;
  int32_t most = (int32_t)((PF_LOAD_MAX >> shift) < PF_BATCH_MAX ? PF_LOAD_MAX >> shift : PF_BATCH_MAX) - 1;
  if (region->readahead_pages > most) {
    region->readahead_pages = most;
  }
  strncpy(region->name, options->name, sizeof region->name - 1);
  strncpy(region->store_name, options->store_name, sizeof region->store_name - 1);
  for (size_t i = 0; i < PF_STREAMS; i++) {
    atomic_init(&region->streams[i], UINT64_MAX);
  }
}

/* With the registry held. On failure the slot is unchanged but for its contents. */
static int set_up(pf_region_t *region, const pf_region_options_t *options, const char **step) {
  fill_in(region, options);
  region->budget = options->budget;
  *step = "calloc";
  int err = make_tables(region);
  if (err != 0) {
    free_tables(region);
    return err;
  }
  if (options->into != NULL && table_overlaps(options->into, region->length)) {
    *step = "into";
    free_tables(region);
    return -EBUSY;
  }
  err = map_memory(region, options->into, step);
  if (err == 0 && region->budget != NULL) {
    *step = "budget";
    err = pf_blocks_make(region);
    err = err != 0 ? err : pf_budget_join(region->budget, region);
    if (err != 0) {
      unmap_memory(region);
    }
  }
  if (err != 0) {
    free_tables(region);
    region->states = NULL;
  }
  return err;
}

int pf_region_create(pf_region_options_t *options, pf_region_t **out, const char **step) {
  *step = "sigaction";
  int err = pf_signal_start();
  if (err == 0 && options->backend == PF_BACKEND_SIGNAL) {
    *step = "userfaultfd";
    err = pf_own_uffd_start();
  }
  if (err != 0) {
    return err;
  }
  pf_region_reap();
  static uint64_t generation; /* under the registry lock */
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&registry);
  *step = "mmap";
  err = start_registry();
  pf_region_t *region = err == 0 ? take_slot() : NULL;
  if (region == NULL) {
    err = err != 0 ? err : -ENFILE;
  } else {
    err = set_up(region, options, step);
    if (err != 0) {
      give_slot(region);
    }
  }
  if (err == 0) {
    region->source = options->source;
    atomic_store(&region->phase, PF_PHASE_OPEN);
    atomic_store(&region->id, ++generation << SLOT_BITS | (uint64_t)(region - slots));
    atomic_fetch_add(&open_count, 1);
    atomic_fetch_add(&region->users, 1); /* entered for the caller */
    table_insert(region);
    *out = region;
  }
  pf_unlock(&registry);
  pf_restore_signals(&before);
  if (err == 0) {
    pf_guard_start();
  }
  return err;
}

/* --- closing --------------------------------------------------------------------------------------------------------- */

bool pf_region_hold(pf_region_t *region) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&registry);
  bool open = atomic_load(&region->phase) == PF_PHASE_OPEN;
  if (open) {
    region->holders++;
  }
  pf_unlock(&registry);
  pf_restore_signals(&before);
  return open;
}

bool pf_region_close(pf_region_t *region, bool force) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&registry);
  bool ends = false;
  if (atomic_load(&region->phase) == PF_PHASE_OPEN) {
    region->holders--;
    ends = force || region->holders == 0;
    if (ends) {
      atomic_store(&region->phase, PF_PHASE_CLOSED);
      region->next_closed = closed_regions;
      closed_regions = region;
    }
  }
  pf_unlock(&registry);
  if (ends && region->source.kind == PF_SOURCE_PAGER) {
    pf_pager_forget(region);
  }
  pf_restore_signals(&before);
  return ends;
}

void pf_region_memory_gone(uint64_t id) {
  pf_region_t *region = pf_region_by_id(id);
  if (region == NULL) {
    return;
  }
  pf_region_close(region, true);
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&registry);
  region->memory_gone = true;
  pf_unlock(&registry);
  pf_restore_signals(&before);
  pf_region_leave(region);
  pf_region_reap();
}

/* Nobody is inside and nobody can come: frees all. */
static void free_region(pf_region_t *region) {
  if (region->budget != NULL) {
    pf_budget_leave(region);
  }
  unmap_memory(region);
  free_tables(region);
  region->states = NULL;
  pf_source_close(&region->source);
  atomic_store(&region->phase, PF_PHASE_FREE);
  atomic_fetch_sub(&open_count, 1);
  give_slot(region);
}

/* A closed shared region keeps its addresses, but not its pages, its budget or its store. */
static void drain_region(pf_region_t *region) {
  if (region->backend == PF_BACKEND_MPROTECT) {
    pf_mem_protect(region->base, region->length, PROT_NONE);
    pf_mem_punch(region->ours, region->length);
  } else {
    pf_mem_drop(region->base, region->length);
    if (region->ours != NULL) {
      pf_mem_drop(region->ours, region->length);
    }
  }
  if (region->budget != NULL) {
    pf_budget_leave(region);
  }
  pf_source_close(&region->source);
  region->drained = true;
}

/* True when the region is free and off the list. Order matters: first it cannot be found, then nobody is inside. */
static bool reap_one(pf_region_t *region) {
  if (region->budget != NULL) {
    pf_budget_detach(region);
  }
  if (region->memory_gone) {
    table_remove(region);
    atomic_store(&region->id, 0);
    if (atomic_load(&region->users) == 0) {
      free_region(region);
      return true;
    }
  } else if (!region->drained && atomic_load(&region->users) == 0) {
    drain_region(region);
  }
  return false;
}

void pf_region_reap(void) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&registry);
  for (pf_region_t **link = &closed_regions; *link != NULL;) {
    pf_region_t *region = *link;
    pf_region_t *next = region->next_closed;
    if (reap_one(region)) {
      *link = next;
    } else {
      link = &region->next_closed;
    }
  }
  bool idle = atomic_load(&open_count) == 0;
  pf_unlock(&registry);
  pf_restore_signals(&before);
  if (idle) {
    pf_scratch_trim();
  }
}
