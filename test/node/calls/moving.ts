/** Programs in C that move bytes past the process (`sendfile` and its like), and give them paged memory at one end. */

import fs from 'node:fs';
import { type Moving, moving } from '../../helpers/moving.js';
import { temporaryPath } from '../../helpers/stores.js';
import { type Act, type Call, call, filling } from './call.js';

const SOURCE = new Uint8Array(1 << 16).map((_, i) => i * 11 + (i >> 8));

/** Closes what was opened in it, whatever happens. */
function withDescriptors<R>(body: (move: Moving, opened: <Fds extends number | number[]>(fds: Fds) => Fds) => R): R {
  const fds: number[] = [];
  try {
    return body(moving(), (more) => {
      fds.push(...[more].flat());
      return more;
    });
  } finally {
    for (const fd of fds) fs.closeSync(fd);
  }
}

/** What comes out of a TCP connection into which it goes. Few enough bytes for its buffers. */
function through(give: (move: Moving, socket: number, bytes: Uint8Array) => void): Act {
  return (bytes) =>
    withDescriptors((move, opened) => {
      const [socket, peer] = opened(move.sockets());
      give(move, socket, bytes);
      const arrived = new Uint8Array(bytes.length);
      move.recv(peer, arrived);
      return arrived;
    });
}

/** A call that is given a connection into which `sendfile` has put a file. */
function from(take: (move: Moving, socket: number, bytes: Uint8Array) => void): Act {
  return (bytes) =>
    withDescriptors((move, opened) => {
      const path = temporaryPath();
      fs.writeFileSync(path, SOURCE);
      const [socket, peer] = opened(move.sockets());
      move.sendfile(socket, opened(fs.openSync(path, 'r')), bytes.length);
      move.peek(peer, new Uint8Array(bytes.length)); // all of it is here
      take(move, peer, bytes);
    });
}

export const MOVED_OUT: readonly Call[] = [
  call(
    'in C: `writev` to a socket',
    through((move, socket, bytes) => move.writev(socket, bytes)),
  ),
  call(
    '`vmsplice` and `splice` to a socket',
    through((move, socket, bytes) =>
      withDescriptors((_, opened) => {
        const [outlet, inlet] = opened(move.pipe());
        move.splice(socket, outlet, move.vmsplice(inlet, bytes));
      }),
    ),
  ),
  call(
    '`write` to a memfd and `sendfile` of it',
    through((move, socket, bytes) =>
      withDescriptors((_, opened) => {
        const file = opened(move.memfd());
        const written = move.writev(file, bytes);
        move.sendfile(socket, opened(fs.openSync(`/proc/self/fd/${file}`, 'r')), written);
      }),
    ),
  ),
  call(
    '`send` with `MSG_ZEROCOPY`',
    through((move, socket, bytes) => move.send(socket, bytes)),
  ),
];

export const MOVED_IN: readonly Call[] = [
  filling(
    'in C: `recv` of what `sendfile` sent',
    from((move, socket, bytes) => move.recv(socket, bytes)),
  ),
  filling(
    '`readv` of it',
    from((move, socket, bytes) => move.readv(socket, bytes)),
  ),
  filling(
    '`readv` of a pipe that it was `splice`d to',
    from((move, socket, bytes) =>
      withDescriptors((_, opened) => {
        const [outlet, inlet] = opened(move.pipe());
        move.splice(inlet, socket, bytes.length);
        move.readv(outlet, bytes);
      }),
    ),
  ),
  filling('`readv` of a file that `copy_file_range` made', (bytes) =>
    withDescriptors((move, opened) => {
      const paths = [temporaryPath(), temporaryPath()] as const;
      fs.writeFileSync(paths[0], SOURCE);
      const copy = opened(fs.openSync(paths[1], 'w+'));
      move.copyFileRange(copy, opened(fs.openSync(paths[0], 'r')), bytes.length);
      move.readv(opened(fs.openSync(paths[1], 'r')), bytes);
    }),
  ),
];
