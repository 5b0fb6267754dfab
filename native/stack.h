/* More stack than a thread has set aside for its signals: stack.c. */
#ifndef PF_STACK_H
#define PF_STACK_H

#include <stdbool.h>
#include <ucontext.h>

/* Set-up. Again: nothing. 0 or -errno. */
int pf_stack_prepare(void);
/* In a handler: true when it runs on a stack for signals that has little left. */
bool pf_stack_is_short(const ucontext_t *uc);
/* Calls `function` on stack number `index` (of PF_THREADS_MAX), which nobody else is using; where that cannot be done, on this one. */
void pf_stack_run(size_t index, void (*function)(void *), void *data);

#endif
