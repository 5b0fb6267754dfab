/* Tables of records: see records.h. Any thread, in a handler too; signals are masked. Takes the table's lock. */
#include "records.h"

#include <string.h>

bool pf_record_next(pf_lock_t *lock, const void *records, size_t count, size_t size, const pf_record_t *after, void *out) {
  const uint8_t *at = records, *oldest = NULL;
  uint64_t serial = 0;
  pf_lock(lock);
  for (size_t i = 0; i < count; i++, at += size) {
    pf_record_t record;
    memcpy(&record, at, sizeof record);
    if (record.region == after->region && record.serial > after->serial && (oldest == NULL || record.serial < serial)) {
      oldest = at;
      serial = record.serial;
    }
  }
  if (oldest != NULL) {
    memcpy(out, oldest, size);
  }
  pf_unlock(lock);
  return oldest != NULL;
}

uint64_t pf_record_serial(pf_lock_t *lock, const uint64_t *serial) {
  pf_lock(lock);
  uint64_t now = *serial;
  pf_unlock(lock);
  return now;
}
