/* Loads, flushes and transfers on threads of our own. */
#ifndef PF_LOADER_H
#define PF_LOADER_H

#include "page.h"

typedef enum {
  PF_JOB_LOAD,
  PF_JOB_PIN,
  PF_JOB_FLUSH,
  PF_JOB_COPY_OUT,  /* into job->bytes */
  PF_JOB_COPY_IN,   /* from job->bytes, as writes */
  PF_JOB_WRITE_TO,  /* to job->fd */
  PF_JOB_READ_FROM, /* from job->fd, as writes */
  PF_JOB_REPLAY,    /* the pages that job->bytes name (touched.h) */
} pf_job_kind_t;

typedef struct pf_job pf_job_t;
struct pf_job {
  pf_region_t *region; /* entered; the owner of the job leaves it after done */
  uint64_t first, end; /* pages */
  pf_job_kind_t kind;  /* PIN: the pages are pinned already; unpinned if the load fails */
  _Atomic uint32_t cancel;
  _Atomic uint64_t pages_done;
  pf_why_t why;        /* when done */
  uint64_t failed_page;
  void (*progress)(pf_job_t *job); /* on the loader's thread */
  void (*done)(pf_job_t *job);     /* on the loader's thread, or where none can be had or it is withdrawn on one that submits or aborts; the last thing it does with the job */
  pf_job_t *next;
  /* Transfers only: */
  uint64_t offset, len;        /* bytes of the region */
  _Atomic uint64_t bytes_done; /* exact when done, however it ended */
  uint8_t *bytes;              /* COPY, REPLAY: `len` of them */
  int fd;                      /* WRITE_TO, READ_FROM: from pf_transfer_fd */
  int64_t position;            /* in the file; -1: where the descriptor stands, which moves by bytes_done */
  int fd_errno;                /* the descriptor's failure; `why` is PF_OK then */
};

/* flush.c: writes what is dirty and makes it durable. Sets job->why; failed_page where it is of one. */
void pf_flush_run(pf_job_t *job);

/* transfer.c: one of the four transfers. Sets job->why (failed_page where it is of one) or job->fd_errno. */
void pf_transfer_run(pf_job_t *job);
/* A descriptor for a job: the caller's may be closed meanwhile, and its number be somebody else's. To be closed when the job is done. -errno. */
int pf_transfer_fd(int fd);

int pf_loader_submit(pf_job_t *job); /* -errno when no thread can be had */
/* Takes a job away that no thread has begun: all of them may be busy for long. True: it is the caller's, who ends it with pf_loader_abort. The job may be over, but must not be gone. */
bool pf_loader_withdraw(pf_job_t *job);
void pf_loader_abort(pf_job_t *job);
unsigned pf_loader_threads(void);
/* True of a thread of the loader. */
bool pf_loader_is(int tid);

#endif
