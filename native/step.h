/* step.h: lets one load from an unreadable page go on, without mapping anything at that page.
 *
 * A missing page must never be filled with zeroes to get a thread going, because another thread would read them as
 * data. Inside `attempt` the load has to go on all the same. So the register that holds its address is shifted until
 * the load reads from a private area of zeroes, the processor's trap flag is set, and the one instruction is run:
 *
 *   touch -> SIGSEGV or SIGBUS -> pf_step_redirect -> the load, once, elsewhere -> SIGTRAP -> pf_step_finish
 *
 * `rep movs` would trap for each byte, and the C library copies with it. It is taken to a `rep movs` of ours instead,
 * for as many rounds as fit into the system page, with a breakpoint behind it.
 *
 * Runs in the signal handler of the thread that faulted and takes no lock. A pf_step_t belongs to one thread; all
 * zeroes means that nothing is redirected. x86-64 only: elsewhere every redirect is refused.
 */
#ifndef PF_STEP_H
#define PF_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

/* No instruction reads more than two places that a register names (cmps does). */
#define PF_STEP_OPERANDS 2

/* A zeroed area of this size is always large enough, however it is aligned. */
#define PF_STEP_ZEROES_MIN 8192

typedef struct {
  int8_t reg;          /* number of the register as instructions encode it: 0 is rax, 15 is r15 */
  bool string;         /* the instruction itself moves the register on (movs, lods, cmps, scas) */
  uint64_t written;    /* bits of the register that the instruction loads; 0 when it is not a known destination */
  int64_t delta;       /* what was added to the register */
  uint64_t redirected; /* what the register held after that */
} pf_step_entry_t;

typedef struct {
  uint8_t count; /* entries in use; 0: nothing is redirected */
  pf_step_entry_t entry[PF_STEP_OPERANDS];
  bool trap_was_set;     /* somebody else was stepping this thread already; the SIGTRAP is theirs as well */
  uint64_t rip;          /* the instruction that is redirected */
  uint64_t blocked_then; /* the thread's blocked signals, to be put back */
  uint64_t copy;         /* the rep movs of ours that runs instead; 0: the instruction itself runs */
  uint64_t copy_end;     /* RIP behind its breakpoint */
  uint64_t withheld;     /* rounds that are left for later, to be added to rcx */
  uint8_t length;        /* bytes of the instruction; known only with copy */
} pf_step_t;

/* Makes the load at `addr` (the exact si_addr) of the instruction at `uc` read from `zeroes` when the handler returns.
 * All of an operand that lies across two pages reads as zeroes, not only the part on the missing page. Until
 * pf_step_finish, signals that can wait are blocked in `uc` and SIGTRAP is not. `zeroes` should be mapped read-only.
 *
 * May be called again for a second operand of the same instruction while the first is redirected.
 *
 * Returns 0, or -ENOTSUP, and then `uc` and `step` are as they were:
 *   - the instruction writes to the memory, or the fault was a write or an instruction fetch;
 *   - no register can be shifted: RIP-relative and absolute addresses, rsp as base, one register as base and index,
 *     gathers (VSIB), tiles, addresses of 32 bits;
 *   - zeroes would do harm: call, jmp, div, loads of segment registers, of control words, of rsp, of whole states;
 *   - the result would show the shifted address: `add (%rax), %rax`;
 *   - the address that the decoder worked out is not `addr`, the instruction is unknown, or the area is too small;
 *   - a redirect of another instruction of this thread has not ended. */
int pf_step_redirect(pf_step_t *step, ucontext_t *uc, uintptr_t addr, const void *zeroes, size_t zeroes_len);

/* For the SIGTRAP handler (si_code TRAP_TRACE or, behind a copy, SI_KERNEL). Returns true when this trap ends a redirect: registers, trap flag and
 * blocked signals are then as the program wants them and `step` is empty. Otherwise returns false, nothing changed. */
bool pf_step_finish(pf_step_t *step, ucontext_t *uc);

/* Takes back a redirect that has not run, so that a fault which arrives in the middle of it can be passed on with the
 * original context: that of a copy with the rounds done so far. Returns true when there was one; `step` is then empty.
 * Otherwise returns false, nothing changed. */
bool pf_step_cancel(pf_step_t *step, ucontext_t *uc);

#endif
