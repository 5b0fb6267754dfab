/*
 * What lies near an address, for the report of a crash that is not of a page: regions that are there, and the last that were freed, because a pointer that was
 * kept too long points into one of those. Looked at in signal handlers, on a thread that may have crashed anywhere: no lock is waited for without an end.
 *
 * Of a region that was closed under a view on which native code may be at work (a read or a compression in libuv's pool) the addresses stay reserved, so that it meets
 * nothing that is somebody else's by then: it ends in that report, a system call with EFAULT. They are given back when the view's buffer is collected, which whoever
 * works on it keeps from it; the oldest also when there are many, and all of them where addresses or mappings are short.
 */
#include "engine.h"

#include <string.h>

#define REMEMBERED 256
#define RESERVED_MAX ((size_t)1 << 40) /* bytes of addresses; but always those of the last */
#define PATIENCE_NS 100000000ULL

static pf_lock_t lock; /* of what follows; signals masked, but for a crash */
static pf_near_t gone[REMEMBERED];
static uint64_t gone_count;
static size_t reserved_bytes;

static uint64_t distance_to(uintptr_t addr, uintptr_t start, uintptr_t end) {
  return addr < start ? start - addr : addr >= end ? addr - end + 1 : 0;
}

/* lock held. The caller unmaps it, without the lock: a crash must not wait for the kernel. True: it was reserved. */
static bool take(pf_near_t *one, pf_near_t *out) {
  *out = *one;
  reserved_bytes -= one->reserved ? one->end - one->start : 0;
  one->reserved = false;
  return out->reserved;
}

static void unmap(const pf_near_t *one) { pf_mem_unmap_region((uint8_t *)one->start, one->end - one->start); }

/* The one whose place is needed. */
static bool take_oldest(pf_near_t *out) {
  pf_lock(&lock);
  bool found = take(&gone[gone_count % REMEMBERED], out);
  pf_unlock(&lock);
  return found;
}

void pf_near_remember(const pf_region_t *region) {
  pf_near_t now = {.start = (uintptr_t)region->base, .end = (uintptr_t)region->base + region->length, .freed_at = pf_now_ns(), .id = region->was}, old;
  memcpy(now.name, region->name, sizeof now.name);
  memcpy(now.store_name, region->store_name, sizeof now.store_name);
  if (take_oldest(&old)) {
    unmap(&old);
  }
  pf_lock(&lock);
  gone[gone_count++ % REMEMBERED] = now;
  pf_unlock(&lock);
}

/* The oldest, if there are too many besides one of `len` bytes. */
static bool take_one_too_many(size_t len, pf_near_t *out) {
  bool found = false;
  pf_lock(&lock);
  for (uint64_t i = 0; !found && i < REMEMBERED && reserved_bytes + len > RESERVED_MAX; i++) {
    found = take(&gone[(gone_count + i) % REMEMBERED], out);
  }
  pf_unlock(&lock);
  return found;
}

static bool note_barred(uint64_t id) {
  bool found = false;
  pf_lock(&lock);
  for (size_t i = 0; !found && i < REMEMBERED; i++) {
    found = gone[i].id == id && !gone[i].unused;
    gone[i].reserved = gone[i].reserved || found;
    reserved_bytes += found ? gone[i].end - gone[i].start : 0;
  }
  pf_unlock(&lock);
  return found;
}

void pf_near_bar(const pf_region_t *region) {
  pf_near_t old;
  while (take_one_too_many(region->length, &old)) {
    unmap(&old);
  }
  if (pf_mem_bar_region(region->base, region->length) == 0 && !note_barred(region->was)) {
    pf_mem_unmap_region(region->base, region->length); /* nobody uses it by now; or many have been freed since it was remembered */
  }
}

void pf_near_release(uint64_t id) {
  pf_near_t one = {0};
  pf_lock(&lock);
  for (size_t i = 0; i < REMEMBERED; i++) {
    if (gone[i].id == id) {
      gone[i].unused = true;
      take(&gone[i], &one);
    }
  }
  pf_unlock(&lock);
  if (one.reserved) {
    unmap(&one);
  }
}

static bool take_any(pf_near_t *out) {
  bool found = false;
  pf_lock(&lock);
  for (size_t i = 0; !found && i < REMEMBERED; i++) {
    found = take(&gone[i], out);
  }
  pf_unlock(&lock);
  return found;
}

bool pf_near_release_all(void) {
  bool any = false;
  sigset_t before;
  pf_near_t one;
  pf_mask_signals(&before);
  for (; take_any(&one); any = true) {
    unmap(&one);
  }
  pf_restore_signals(&before);
  return any;
}

static void consider(const pf_neighbour_t *neighbour, uintptr_t addr, pf_near_t *out) {
  pf_region_t *region = neighbour->region;
  if (region == NULL) {
    return;
  }
  uint64_t distance = distance_to(addr, neighbour->start, neighbour->end);
  if (distance < out->distance) {
    *out = (pf_near_t){.start = neighbour->start, .end = neighbour->end, .distance = distance};
    memcpy(out->name, region->name, sizeof out->name);
    memcpy(out->store_name, region->store_name, sizeof out->store_name);
  }
  pf_region_leave(region);
}

/* The last first: its addresses may have been used again and again. */
static void consider_gone(uintptr_t addr, pf_near_t *out) {
  if (!pf_lock_before(&lock, pf_now_ns() + PATIENCE_NS)) {
    return;
  }
  uint64_t count = gone_count < REMEMBERED ? gone_count : REMEMBERED;
  for (uint64_t i = 1; i <= count; i++) {
    const pf_near_t *one = &gone[(gone_count - i) % REMEMBERED];
    uint64_t distance = distance_to(addr, one->start, one->end);
    if (distance < out->distance) {
      *out = *one;
      out->distance = distance;
    }
  }
  pf_unlock(&lock);
}

bool pf_near(uintptr_t addr, uint64_t most, pf_near_t *out) {
  pf_neighbour_t neighbours[2];
  *out = (pf_near_t){.distance = most + 1};
  uint64_t give_up = pf_now_ns() + PATIENCE_NS;
  bool known = pf_region_neighbours(addr, neighbours);
  while (!known && pf_now_ns() < give_up) {
    known = pf_region_neighbours(addr, neighbours);
  }
  for (int i = 0; known && i < 2; i++) {
    consider(&neighbours[i], addr, out);
  }
  consider_gone(addr, out);
  return out->distance <= most;
}
