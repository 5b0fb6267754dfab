/** What became of a child, in lines: exited, killed, stopped, continued. Main thread. */
import type { ChildStatus } from '../../kernel/index.js';
import type { Explainer } from './explain.js';
import type { Line } from './line.js';
import type { Speaker } from './speaker.js';

/** Tells what a child has become. `announced`: the line with SIGCHLD was said already. */
export function sayStatus(
  speaker: Speaker,
  explainer: Explainer,
  child: number,
  status: ChildStatus,
  announced: boolean,
): void {
  if (status.state === 'gone') return; // how it ended follows from elsewhere
  const isEnd = status.state !== 'stopped' && status.state !== 'continued';
  if (isEnd && !announced) {
    explainer.explain('wait-pidfd');
    speaker.say({ type: 'sigchld', child });
  }
  const line = statusLine(child, status);
  if (line !== undefined) speaker.say(line);
}

/** Nothing more is to be said of a child that ended well. */
function statusLine(child: number, status: ChildStatus): Line | undefined {
  switch (status.state) {
    case 'exited':
      return status.code === 0 ? undefined : { type: 'exited', child, code: status.code };
    case 'killed':
      return { type: 'killed', child, signal: status.signal, coreDumped: status.coreDumped };
    case 'stopped':
      return { type: 'stopped', child, signal: status.signal };
    case 'continued':
      return { type: 'continued', child };
    default:
      return undefined;
  }
}
