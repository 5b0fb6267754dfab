// What the two runners of tests share about --again: tests that failed beside others, and are run once more alone.
import { appendFileSync } from 'node:fs';

export const AGAIN = '--again';
/** More files, or C tests, that fail do so for a reason of their own. */
export const MAY_REPEAT = 3;

/** Says what failed, also to the file that PAGEFAULT_FAILURES names, which is shown when all suites have ended. */
export function say(text) {
  process.stdout.write(text);
  if (process.env.PAGEFAULT_FAILURES) appendFileSync(process.env.PAGEFAULT_FAILURES, text);
}
