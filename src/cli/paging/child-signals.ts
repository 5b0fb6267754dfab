/**
 * `--signalfd`: what becomes of the children is read as SIGCHLD from a signalfd, as a program in C would do it. That takes the signal away from
 * libuv, which will never hear of its children's ends: safe in a process whose only children are these, such as this command, and nowhere
 * else. Without it each child's pidfd tells, which takes nothing away from anybody. Main thread.
 */
import type { WatchStatus } from '../../guests/process.js';
import { type ChildStatus, type PidFd, SignalFd, type SignalInfo } from '../../kernel/index.js';
import type { Explainer } from './explain.js';
import type { Speaker } from './speaker.js';

const CODES = ['', 'CLD_EXITED', 'CLD_KILLED', 'CLD_DUMPED', 'CLD_TRAPPED', 'CLD_STOPPED', 'CLD_CONTINUED'];
const NUMBER_OF: Readonly<Record<string, number>> = { exited: 1, killed: 2, stopped: 5, continued: 6 };

interface Followed {
  readonly pidfd: PidFd;
  readonly changed: (status: ChildStatus) => void;
}

/** SIGCHLD by signalfd, for all children. Made before the first is started. */
export class ChildSignals {
  readonly #signals: SignalFd;
  readonly #followed = new Map<number, Followed>();
  readonly #speaker: Speaker;
  readonly #explainer: Explainer;

  constructor(speaker: Speaker, explainer: Explainer) {
    this.#speaker = speaker;
    this.#explainer = explainer;
    explainer.explain('signalfd');
    this.#signals = SignalFd.open(['SIGCHLD'], { takeChildSignals: true });
    this.#signals.onReadable(() => this.#read());
  }

  /** Takes the place of the pidfd's own watch. */
  readonly watchStatus: WatchStatus = (pidfd, changed) => {
    this.#followed.set(pidfd.pid, { pidfd, changed });
    return { close: () => this.#followed.delete(pidfd.pid) };
  };

  close(): void {
    this.#signals.close();
  }

  /** A signal that is pending already is not queued again, so that one may stand for several: every child is asked. */
  #read(): void {
    const told = this.#signals.read().filter((info) => this.#followed.has(info.pid));
    for (const info of told) this.#say(info);
    for (const [pid, { pidfd, changed }] of [...this.#followed]) {
      for (let status = take(pidfd); status !== undefined; status = take(pidfd)) {
        const at = told.findIndex((info) => info.pid === pid && NUMBER_OF[status?.state ?? ''] === plain(info.code));
        if (at >= 0) told.splice(at, 1);
        changed(status);
        if (!this.#followed.has(pid)) break;
      }
    }
  }

  #say({ pid, code, status }: SignalInfo): void {
    this.#explainer.explain('wait-signalfd');
    this.#speaker.say({ type: 'sigchld', child: pid, code: CODES[code] ?? String(code), status });
  }
}

/** CLD_DUMPED is a death like any other. */
function plain(code: number): number {
  return code === 3 ? 2 : code;
}

/** Its end, or that it was stopped or continued. */
function take(pidfd: PidFd): ChildStatus | undefined {
  return pidfd.reap() ?? pidfd.poll();
}
