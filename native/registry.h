/*
 * What the files share that make, find and end regions (registry.c, region.c, reap.c). All of it under the registry lock, but for taking that.
 */
#ifndef PF_REGISTRY_H
#define PF_REGISTRY_H

#include "engine.h"

#define PF_DRAIN_NS 2000000000ULL /* how long the threads inside a closed region may take to leave it */

extern pf_lock_t pf__registry; /* taken with signals masked */

/* Once, before the first region. 0 or -errno. */
int pf__registry_start(void);
bool pf__registry_started(void);
/* A FREE struct, with the contents of its last use. NULL: all are in use. */
pf_region_t *pf__registry_take(void);
void pf__registry_give(pf_region_t *region);
/* The region is OPEN, has an id and can be found; entered for the caller. Closed regions that had its addresses give them up. */
void pf__registry_publish(pf_region_t *region);
/* It is FREE, and its struct may be taken again. */
void pf__registry_end(pf_region_t *region);

/* The region cannot be found any more. */
void pf__table_remove(pf_region_t *region);
/* 0: nobody pages it, or regions that are closed and drained. -EBUSY: an open one, whose name is copied. -EAGAIN: one that is about to be drained. */
int pf__table_overlap(const uint8_t *base, size_t len, char other_name[PF_NAME_MAX]);
/* Some of it is a region's, open or closed. */
bool pf__table_has(const uint8_t *base, size_t len);
/* Closed regions have none of it any more. */
void pf__table_clear(const uint8_t *base, size_t len);

/* Of region.c. */
void pf__region_unmap(pf_region_t *region);
void pf__region_free_tables(pf_region_t *region);

#endif
