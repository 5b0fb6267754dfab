/* The service thread of backend 'thread', and what it leaves for threads whose page it could not bring: see service.c. */
#ifndef PF_SERVICE_H
#define PF_SERVICE_H

#include "engine.h"

typedef struct {
  pf_why_t why;
  bool refused; /* the page is there, and cannot be written */
} pf_verdict_t;

/* Why the thread's page could not be had; found once. False: nobody said so, and it may touch the page again. In a handler. */
bool pf_verdict_find(pf_region_t *region, uint64_t page, int tid, pf_verdict_t *out);
/* Nobody will ask about this bar any more: it goes now or, while somebody is at the page, as soon as pf_service_look finds that it can. In a handler too. */
void pf_bar_leave(pf_region_t *region, uint64_t page);
/* Called about once a second: somebody must be listening, whatever the others wait for; and what nobody has asked for is forgotten. */
void pf_service_look(void);

#endif
