/**
 * The process that keeps guests while no daemon serves them: `node main.js SOCKET DEADLINE_MS`. It does as little as can be done, so that nothing of it
 * need ever be upgraded or crash: it serves no page and reads no store. `start.ts` starts it detached, with a third argument: a descriptor that
 * is told 'ready', or why it cannot be, and closed; such a one ends when it is not needed any more, and one that was started by hand does not.
 */

import { writeSync } from 'node:fs';
import { reasonOf } from '../../errors/reason.js';
import { closeFd } from '../../kernel/index.js';
import { Keeper } from './keeper.js';
import { listenFor } from './socket.js';

/** Nobody may be at the other end any more. */
function say(sentence: string): void {
  try {
    writeSync(2, `pagefault supervisor: ${sentence}\n`);
  } catch {
    // whoever would read it is gone
  }
}

function tellStarter(fd: number | undefined, sentence: string): void {
  if (fd === undefined) return;
  try {
    writeSync(fd, sentence);
  } catch {
    // the starter is gone
  }
  closeFd(fd);
}

function serve(path: string, deadlineMs: number, starter: number | undefined): void {
  const listener = listenFor(path);
  let ending = false;
  const leave = (code: number): never => {
    listener.close();
    process.exit(code);
  };
  const idle = (): void => {
    if (ending || starter !== undefined) leave(0);
  };
  const keeper = new Keeper(listener, { deadlineMs, say, idle });
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      ending = true;
      keeper.end();
    });
  }
  process.on('SIGHUP', () => {}); // the terminal it was started from is gone
  process.on('uncaughtException', (error) => {
    say(`it cannot go on: ${error.stack ?? error.message}`);
    keeper.killOrphans('its supervisor cannot go on');
    leave(1); // the daemon, where there is one, starts another
  });
}

function main([path = '', deadline = '', fd]: readonly string[]): void {
  const deadlineMs = Number(deadline);
  if (path === '' || !Number.isInteger(deadlineMs) || deadlineMs < 1) {
    say('its arguments are the path of a socket and a number of milliseconds');
    process.exitCode = 2;
    return;
  }
  process.title = 'pagefault supervisor';
  const starter = fd === undefined ? undefined : Number(fd);
  try {
    serve(path, deadlineMs, starter);
    tellStarter(starter, 'ready');
  } catch (error) {
    tellStarter(starter, reasonOf(error));
    if (starter === undefined) say(reasonOf(error));
    process.exitCode = 1;
  }
}

main(process.argv.slice(2));
