/*
 * The regions of the process, and finding them.
 *
 * Finding is the first thing a fault does, so it takes no lock: a table sorted by address, read under a sequence counter. Whoever
 * finds a region enters it (users + 1) and then looks at the counter again (entries are read with acquire and written with release, so that neither
 * passes the counter); a region is only unmapped when it has left the table
 * and users is 0. The structs live in one reserved array and are never given back, so that a reader that comes too late still
 * counts up and down in a valid place.
 *
 * Writers hold `pf__registry` with signals masked (registry.h). Life of a region: FREE → OPEN (pf_region_create) → CLOSED (pf_region_close: nothing loads
 * any more) → FREE (pf_region_reap, when the memory's buffer is gone and nobody is inside).
 */
#include "registry.h"

#include <errno.h>
#include <string.h>

#define SLOT_BITS 20
#define MAX_REGIONS ((size_t)1 << SLOT_BITS)

typedef struct {
  _Atomic uintptr_t start, end;
  _Atomic(pf_region_t *) region;
} range_t;

pf_lock_t pf__registry;
static _Atomic uint64_t sequence; /* odd while `table` changes */
static range_t *table;
static _Atomic size_t table_count;
static char (*names)[PF_NAME_MAX]; /* of the slots: all that a forked child has of them */
static pf_region_t *slots;
static size_t slots_used;
static uint32_t *free_slots; /* stack */
static size_t free_count;
static _Atomic uint32_t open_count; /* regions not FREE */
static _Atomic uint32_t segv_count; /* of these, those whose pages are closed by mprotect */

/* --- finding --------------------------------------------------------------------------------------------------------------- */

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

static void look_at(size_t i, size_t count, pf_neighbour_t *out) {
  *out = (pf_neighbour_t){NULL, 0, 0};
  if (i < count) {
    *out = (pf_neighbour_t){atomic_load(&table[i].region), atomic_load(&table[i].start), atomic_load(&table[i].end)};
    atomic_fetch_add(&out->region->users, 1);
  }
}

bool pf_region_neighbours(uintptr_t addr, pf_neighbour_t out[2]) {
  uint64_t before = atomic_load(&sequence);
  if (before & 1) {
    return false;
  }
  size_t count = atomic_load(&table_count), above = lower_bound(addr, count);
  look_at(above, count, &out[0]);
  look_at(above - 1, count, &out[1]); /* above 0: a number beyond count */
  if (atomic_load(&sequence) == before) {
    return true;
  }
  for (int i = 0; i < 2; i++) {
    if (out[i].region != NULL) {
      pf_region_leave(out[i].region);
    }
  }
  return false;
}

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

uint64_t pf_region_least_poll(void) {
  uint64_t least = UINT64_MAX;
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
  for (size_t slot = 1; slot < slots_used; slot++) {
    if (atomic_load(&slots[slot].phase) == PF_PHASE_OPEN && slots[slot].poll_ns < least) {
      least = slots[slot].poll_ns;
    }
  }
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
  return least;
}

unsigned pf_region_count(void) { return atomic_load(&open_count); }
bool pf_region_any_by_segv(void) { return atomic_load(&segv_count) != 0; }

/* The fork may have come in the middle of a change: then an entry is there twice, or one lies behind the count. */
bool pf_region_inherited(size_t index, pf_inherited_t *out) {
  size_t count = table == NULL ? 0 : atomic_load_explicit(&table_count, memory_order_relaxed) + 1;
  if (index >= (count < MAX_REGIONS ? count : MAX_REGIONS)) {
    return false;
  }
  pf_region_t *region = atomic_load_explicit(&table[index].region, memory_order_relaxed);
  *out = (pf_inherited_t){
      .start = atomic_load_explicit(&table[index].start, memory_order_relaxed),
      .end = atomic_load_explicit(&table[index].end, memory_order_relaxed),
      .name = region == NULL ? "" : names[region - slots],
  };
  return true;
}

/* --- the table's writers (registry held) ----------------------------------------------------------------------------------- */

static void store_range(size_t i, uintptr_t start, uintptr_t end, pf_region_t *region) {
  atomic_store_explicit(&table[i].start, start, memory_order_release);
  atomic_store_explicit(&table[i].end, end, memory_order_release);
  atomic_store_explicit(&table[i].region, region, memory_order_release);
}

static void move_range(size_t to, size_t from) {
  store_range(to, atomic_load_explicit(&table[from].start, memory_order_relaxed), atomic_load_explicit(&table[from].end, memory_order_relaxed),
              atomic_load_explicit(&table[from].region, memory_order_relaxed));
}

static void close_gap(size_t at) {
  size_t count = atomic_load(&table_count);
  for (size_t i = at; i + 1 < count; i++) {
    move_range(i, i + 1);
  }
  atomic_store(&table_count, count - 1);
}

static void open_gap(size_t at) {
  size_t count = atomic_load(&table_count);
  for (size_t i = count; i > at; i--) {
    move_range(i, i - 1);
  }
  atomic_store(&table_count, count + 1);
}

void pf__table_remove(pf_region_t *region) {
  size_t count = atomic_load(&table_count);
  size_t at = region->trimmed ? 0 : lower_bound((uintptr_t)region->base, count);
  for (; at < count && region->trimmed && atomic_load(&table[at].region) != region; at++) {
  }
  if (at == count || atomic_load(&table[at].region) != region) {
    return;
  }
  atomic_fetch_add(&sequence, 1);
  close_gap(at);
  atomic_fetch_add(&sequence, 1);
}

/* --- memory that is paged again (registry held) ---------------------------------------------------------------------------- */

/* What a closed region has of [start, end) goes to another one; the rest stays closed. A region that has nothing left is free to go. */
static void take_from(size_t at, uintptr_t start, uintptr_t end) {
  pf_region_t *region = atomic_load(&table[at].region);
  uintptr_t old_start = atomic_load(&table[at].start), old_end = atomic_load(&table[at].end);
  region->trimmed = true;
  if (old_start < start) { /* what lies behind `end` is not found any more: a touch there ends the process all the same, without a reason */
    store_range(at, old_start, start, region);
  } else if (old_end > end) {
    store_range(at, end, old_end, region);
  } else {
    close_gap(at);
    region->memory_gone = true;
  }
}

/* The sequence is odd. Returns where a region of this range belongs. */
static size_t clear_range(uintptr_t start, uintptr_t end) {
  for (;;) {
    size_t at = lower_bound(start, atomic_load(&table_count));
    if (at == atomic_load(&table_count) || atomic_load(&table[at].start) >= end) {
      return at;
    }
    take_from(at, start, end);
  }
}

static void table_replace(pf_region_t *region) {
  uintptr_t start = (uintptr_t)region->base, end = start + region->length;
  atomic_fetch_add(&sequence, 1);
  size_t at = clear_range(start, end);
  open_gap(at);
  store_range(at, start, end, region);
  atomic_fetch_add(&sequence, 1);
}

int pf__table_overlap(const uint8_t *base, size_t len, char other_name[PF_NAME_MAX]) {
  uintptr_t start = (uintptr_t)base;
  size_t count = atomic_load(&table_count);
  int err = 0;
  for (size_t at = lower_bound(start, count); at < count && atomic_load(&table[at].start) < start + len; at++) {
    pf_region_t *other = atomic_load(&table[at].region);
    if (atomic_load(&other->phase) == PF_PHASE_OPEN || !other->foreign) {
      memcpy(other_name, other->name, PF_NAME_MAX);
      return -EBUSY;
    }
    err = other->drained ? err : -EAGAIN;
  }
  return err;
}

bool pf__table_has(const uint8_t *base, size_t len) {
  size_t count = atomic_load(&table_count), at = lower_bound((uintptr_t)base, count);
  return at < count && atomic_load(&table[at].start) < (uintptr_t)base + len;
}

void pf__table_clear(const uint8_t *base, size_t len) {
  atomic_fetch_add(&sequence, 1);
  clear_range((uintptr_t)base, (uintptr_t)base + len);
  atomic_fetch_add(&sequence, 1);
}

/* --- the structs (registry held) ------------------------------------------------------------------------------------------- */

bool pf__registry_started(void) { return slots != NULL; }

int pf__registry_start(void) {
  if (slots != NULL) {
    return 0;
  }
  static void *ranges, *named, *stack; /* what is had stays, should the next not be had: it will be the next time */
  void *regions;
  const char *name = "pagefault regions";
  int err = ranges != NULL ? 0 : pf_mem_reserve_inherited(MAX_REGIONS * sizeof *table, name, &ranges);
  err = err != 0 || named != NULL ? err : pf_mem_reserve_inherited(MAX_REGIONS * sizeof *names, name, &named);
  err = err != 0 || stack != NULL ? err : pf_mem_reserve(MAX_REGIONS * sizeof *free_slots, name, &stack);
  err = err != 0 ? err : pf_mem_reserve(MAX_REGIONS * sizeof *slots, name, &regions);
  if (err == 0) {
    names = named;
    table = ranges;
    free_slots = stack;
    slots = regions;
    slots_used = 1; /* id 0 means none */
  }
  return err;
}

pf_region_t *pf__registry_take(void) {
  if (free_count > 0) {
    return &slots[free_slots[--free_count]];
  }
  return slots_used < MAX_REGIONS ? &slots[slots_used++] : NULL;
}

void pf__registry_give(pf_region_t *region) { free_slots[free_count++] = (uint32_t)(region - slots); }

void pf__registry_publish(pf_region_t *region) {
  static uint64_t generation;
  memcpy(names[region - slots], region->name, PF_NAME_MAX);
  atomic_store(&region->phase, PF_PHASE_OPEN);
  region->was = ++generation << SLOT_BITS | (uint64_t)(region - slots);
  atomic_store(&region->id, region->was);
  atomic_fetch_add(&open_count, 1);
  atomic_fetch_add(&segv_count, region->backend == PF_BACKEND_MPROTECT || region->served);
  atomic_fetch_add(&region->users, 1); /* entered for the caller */
  table_replace(region);
}

void pf__registry_end(pf_region_t *region) {
  atomic_store(&region->phase, PF_PHASE_FREE);
  atomic_fetch_sub(&open_count, 1);
  atomic_fetch_sub(&segv_count, region->backend == PF_BACKEND_MPROTECT || region->served);
  pf__registry_give(region);
}
