/*
 * Regions that end: they lose their holders, are closed, give back what they have, and are freed once nobody is inside. Any thread, not in a handler. What is said
 * of the registry's lock and of a region's life is in registry.c.
 */
#include "registry.h"

#include <errno.h>
#include <sys/mman.h>

static pf_region_t *closed_regions; /* list, under the registry lock */

/* --- holders --------------------------------------------------------------------------------------------------------------- */

bool pf_region_hold(pf_region_t *region) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
  bool open = atomic_load(&region->phase) == PF_PHASE_OPEN;
  if (open) {
    region->holders++;
  }
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
  return open;
}

bool pf_region_unhold(pf_region_t *region) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
  bool others = atomic_load(&region->phase) == PF_PHASE_OPEN && region->holders > 1;
  if (others) {
    region->holders--;
  }
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
  return others;
}

/* --- closing --------------------------------------------------------------------------------------------------------------- */

bool pf_region_close(pf_region_t *region, bool force) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
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
  pf_unlock(&pf__registry);
  if (ends) {
    pf_guard_interval_ended(region->poll_ns);
  }
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
  pf_lock(&pf__registry);
  region->memory_gone = true;
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
  pf_region_leave(region);
  pf_region_reap();
}

void pf_region_outlived(pf_region_t *region) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
  region->outlived = !region->foreign;
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
}

void pf_region_unused(uint64_t id) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
  pf_region_t *region = pf_region_by_id(id);
  if (region != NULL) {
    region->outlived = false;
    pf_region_leave(region);
  } else {
    pf_near_release(id); /* it may be there still, though nobody finds it */
  }
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
}

bool pf_region_any_closed(void) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
  bool any = closed_regions != NULL;
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
  return any;
}

/* --- freeing --------------------------------------------------------------------------------------------------------------- */

/* Nobody is inside and nobody can come: frees all. */
static void free_region(pf_region_t *region) {
  if (region->budget != NULL) {
    pf_budget_leave(region);
  }
  pf__region_unmap(region);
  pf_patches_free(region);
  pf__region_free_tables(region);
  region->states = NULL;
  pf_source_close(&region->source);
  pf__registry_end(region);
}

/* A closed shared region keeps its addresses, but not its pages, its budget or its store. */
static void drain_region(pf_region_t *region) {
  if (region->backend == PF_BACKEND_MPROTECT) {
    pf_mem_protect(region->base, region->length, PROT_NONE);
  } else {
    pf_mem_drop(region->base, region->length);
  }
  if (region->backend != PF_BACKEND_SIGNAL) {
    pf_mem_punch(region->ours, region->length);
  } else if (region->ours != NULL) {
    pf_mem_drop(region->ours, region->length);
  }
  pf_patches_drain(region);
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
    if (!region->remembered) { /* first: a thread may be on its way into the handler */
      region->remembered = true;
      pf_near_remember(region);
    }
    pf__table_remove(region);
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
  pf_lock(&pf__registry);
  for (pf_region_t **link = &closed_regions; *link != NULL;) {
    pf_region_t *region = *link;
    pf_region_t *next = region->next_closed;
    if (reap_one(region)) {
      *link = next;
    } else {
      link = &region->next_closed;
    }
  }
  bool idle = pf_region_count() == 0;
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
  if (idle) {
    pf_scratch_trim();
    pf_chutes_trim();
  }
}

/* --- memory that its owner takes back -------------------------------------------------------------------------------------- */

static int forget(uint8_t *base, size_t len, char other[PF_NAME_MAX]) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
  int err = pf__registry_started() ? pf__table_overlap(base, len, other) : 0;
  if (err == 0 && pf__registry_started() && pf__table_has(base, len)) {
    pf__table_clear(base, len);
    pf_mem_give_back(base, len, len);
  }
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
  return err;
}

int pf_region_forget(uint8_t *base, size_t len, char other[PF_NAME_MAX]) {
  uint64_t give_up = pf_now_ns() + PF_DRAIN_NS;
  int err = forget(base, len, other);
  while (err == -EAGAIN && pf_now_ns() < give_up) {
    pf_sleep_until(pf_now_ns() + 1000000ULL);
    pf_region_reap();
    err = forget(base, len, other);
  }
  pf_region_reap();
  return err;
}
