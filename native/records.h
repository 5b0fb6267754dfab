/*
 * Tables of the last things that happened to regions (failures, stalls), of which each thread asks for what it has not been told yet. Fixed, so that
 * a handler can write into them. The lock is the table's owner's, held for one copy.
 */
#ifndef PF_RECORDS_H
#define PF_RECORDS_H

#include "sync.h"

#include <stddef.h>

/* How each record begins. */
typedef struct {
  uint64_t serial; /* order over the process, 0 = unused */
  uint64_t region; /* id */
} pf_record_t;

/* Copies the oldest record of the region after `serial`. False: there is none. */
bool pf_record_next(pf_lock_t *lock, const void *records, size_t count, size_t size, const pf_record_t *after, void *out);
/* The serial of the newest record, which is under the lock. */
uint64_t pf_record_serial(pf_lock_t *lock, const uint64_t *serial);

#endif
