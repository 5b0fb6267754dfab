/*
 * Who gets a signal that is not ours. Handlers that were there before, or were put over ours since, make a chain: the newest first, then those below it,
 * last the one that was there before us; then the default action. Each may hand on what it does not want to whatever it found installed, which is us:
 * then the next one below it has its turn.
 */
#ifndef PF_CHAIN_H
#define PF_CHAIN_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

enum { PF_ON_BUS, PF_ON_SEGV, PF_ON_TRAP, PF_SIGNALS };

static inline int pf_number_of(unsigned which) { return which == PF_ON_BUS ? SIGBUS : which == PF_ON_SEGV ? SIGSEGV : SIGTRAP; }

/* Not in a handler, one thread at a time: what was found in the place of ours comes before all others. */
void pf_chain_push(unsigned which, const struct sigaction *action);
/* The same: it is in the chain no longer. */
void pf_chain_remove(unsigned which, const struct sigaction *action);
/* In the handler. Returns when the thread may go on. */
void pf_chain_forward(unsigned which, siginfo_t *info, ucontext_t *uc);
/* The same, for what nobody may handle: the default action, where the signal came. */
void pf_chain_default(unsigned which, siginfo_t *info);
uint64_t pf_chain_forwarded(void);

#endif
