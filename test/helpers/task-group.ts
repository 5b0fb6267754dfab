/** A cgroup that bounds how many threads its processes have, of version 1 or 2, where there is the permission to make one. */

import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export class TaskGroup {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** A new group without a limit, or the reason why there can be none. */
  static make(name: string): TaskGroup | string {
    let reason = 'no pids controller is mounted';
    for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n')) {
      const [, parent = '', type, options = ''] = line.split(' ');
      if (type !== 'cgroup2' && !(type === 'cgroup' && options.split(',').includes('pids'))) continue;
      const path = join(parent, name);
      try {
        if (type === 'cgroup2') writeFileSync(join(parent, 'cgroup.subtree_control'), '+pids');
        mkdirSync(path);
        if (existsSync(join(path, 'pids.max'))) return new TaskGroup(path);
        rmdirSync(path);
        reason = `${parent} has no pids controller`;
      } catch (error) {
        reason = String(error);
      }
    }
    return reason;
  }

  /** The group that `make` made, in another process. */
  static at(path: string): TaskGroup {
    return new TaskGroup(path);
  }

  join(): void {
    writeFileSync(join(this.path, 'cgroup.procs'), String(process.pid));
  }

  /** No more threads than there are, or as many as one likes. */
  close(closed: boolean): void {
    const now = readFileSync(join(this.path, 'pids.current'), 'utf8');
    writeFileSync(join(this.path, 'pids.max'), closed ? now.trim() : 'max');
  }

  remove(): void {
    rmdirSync(this.path);
  }
}
