/** `net`, `dgram`, `http`, `http2`, `fetch` and child processes with paged memory. */

import { spawn, spawnSync } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import net, { type AddressInfo } from 'node:net';
import tls from 'node:tls';
import { type Act, type Call, call, calledBack, collect, filling, listening } from './call.js';

const portOf = (server: { address(): unknown }): number => (server.address() as AddressInfo).port;

/** What arrives at the other end of a connection. */
function sent(send: (socket: net.Socket, bytes: Uint8Array) => void): Act {
  return async (bytes) => {
    const server = await listening(net.createServer());
    const connected = once(server, 'connection') as Promise<[net.Socket]>;
    const socket = net.connect(portOf(server), '127.0.0.1');
    try {
      const [peer] = await connected;
      const failing = once(socket, 'close'); // rejects with the socket's error
      const arriving = collect(peer);
      send(socket, bytes);
      await failing;
      return await arriving;
    } finally {
      socket.destroy();
      server.close();
    }
  };
}

/** What a client is answered with, or why the server could not. */
function answered(answer: (response: http.ServerResponse, bytes: Uint8Array) => void): Act {
  return async (bytes) => {
    let failure: Error | undefined;
    const server = http.createServer((request, response) => {
      request.socket.on('error', (error) => {
        failure = error;
      });
      answer(response, bytes);
    });
    await listening(server);
    try {
      const [response] = (await once(http.get({ port: portOf(server), agent: false }), 'response')) as [
        http.IncomingMessage,
      ];
      return await collect(response);
    } catch (error) {
      throw failure ?? error;
    } finally {
      server.closeAllConnections();
      server.close();
    }
  };
}

/** What a server is posted. */
function posted(post: (port: number, bytes: Uint8Array<ArrayBuffer>) => unknown): Act {
  return async (bytes) => {
    const server = http.createServer();
    await listening(server);
    const arriving = new Promise<Buffer>((resolve, reject) => {
      server.on('request', (request, response) => {
        collect(request).then((body) => {
          response.end('thanks');
          resolve(body);
        }, reject);
      });
    });
    arriving.catch(() => {});
    try {
      await post(portOf(server), bytes);
      return await arriving;
    } finally {
      server.closeAllConnections();
      server.close();
    }
  };
}

async function request(port: number, bytes: Uint8Array): Promise<void> {
  const posting = http.request({ port, method: 'POST', agent: false });
  const answering = once(posting, 'response') as Promise<[http.IncomingMessage]>;
  posting.end(bytes);
  const [response] = await answering;
  response.resume();
}

const datagram: Act = async (bytes) => {
  const receiver = dgram.createSocket('udp4').bind(0, '127.0.0.1');
  await once(receiver, 'listening');
  const sender = dgram.createSocket('udp4');
  try {
    const arriving = once(receiver, 'message') as Promise<[Buffer]>;
    await calledBack((done) => sender.send(bytes, receiver.address().port, '127.0.0.1', done));
    return (await arriving)[0];
  } finally {
    sender.close();
    receiver.close();
  }
};

/** TLS without certificates. */
const encrypted: Act = async (bytes) => {
  const key = Buffer.alloc(16, 1);
  const ciphers = 'PSK-AES128-GCM-SHA256';
  const options = { ciphers, minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const;
  const server = tls.createServer({ ...options, pskCallback: () => key, pskIdentityHint: 'x' });
  await listening(server);
  const connected = once(server, 'secureConnection') as Promise<[tls.TLSSocket]>;
  const socket = tls.connect({
    ...options,
    port: portOf(server),
    host: '127.0.0.1',
    pskCallback: () => ({ psk: key, identity: 'x' }),
    checkServerIdentity: () => undefined,
  });
  try {
    const [peer] = await connected;
    const arriving = collect(peer);
    socket.end(bytes);
    await once(socket, 'finish');
    return await arriving;
  } finally {
    socket.destroy();
    server.close();
  }
};

/** Rejects where the server is told that all is sent, and the client, which hears from it later, heard nothing of that. */
const overHttp2: Act = async (bytes) => {
  const server = await listening(http2.createServer());
  const client = http2.connect(`http://127.0.0.1:${portOf(server)}`);
  const heard = { response: false };
  try {
    const lost = new Promise<never>((_, reject) => {
      const look = (): void => {
        if (!heard.response) reject(new Error('lost without an error'));
      };
      server.on('stream', (stream) => {
        stream.respond();
        stream.end(bytes);
        stream.on('error', reject);
        stream.on('close', () => client.ping(() => setImmediate(look)));
      });
    });
    const asking = client.request();
    asking.on('response', () => {
      heard.response = true;
    });
    asking.on('error', () => {});
    return await Promise.race([collect(asking), lost]);
  } finally {
    client.destroy();
    server.close();
  }
};

const receive: Act = async (bytes) => {
  const server = await listening(
    net.createServer((peer) => {
      peer.on('error', () => {});
      peer.end(Buffer.alloc(bytes.length, 'paged'));
    }),
  );
  let filled = 0;
  const callback = (length: number): boolean => {
    filled += length;
    return true;
  };
  const socket = net.connect({
    port: portOf(server),
    host: '127.0.0.1',
    onread: { buffer: bytes.subarray(0, 5), callback },
  });
  try {
    await once(socket, 'close');
    return filled;
  } finally {
    socket.destroy();
    server.close();
  }
};

const toChild: Act = async (bytes) => {
  const child = spawn('cat', { stdio: ['pipe', 'pipe', 'inherit'] });
  const arriving = collect(child.stdout);
  const closed = once(child.stdin, 'close');
  child.stdin.end(bytes);
  await closed;
  return await arriving;
};

const toChildSync: Act = (bytes) => {
  const { error, stdout } = spawnSync('cat', { input: bytes });
  if (error) throw error;
  return stdout;
};

export const SOCKETS: readonly Call[] = [
  call(
    '`socket.write`',
    sent((socket, bytes) => socket.end(bytes.subarray(0, 3)) && undefined),
  ),
  call(
    '`socket.end`',
    sent((socket, bytes) => socket.end(bytes)),
  ),
  call(
    '`socket.write`, twice (`writev`)',
    sent((socket, bytes) => {
      socket.cork();
      socket.write(bytes.subarray(0, 7));
      socket.end(bytes.subarray(7));
    }),
  ),
  call('`dgram` `send`', datagram),
  call('`child.stdin.write`', toChild),
];
export const SYNC_CHILD: readonly Call[] = [call('`spawnSync` with `input`', toChildSync)];
export const ONREAD: readonly Call[] = [filling('`net.connect` with `onread.buffer`', receive)];
export const HTTP: readonly Call[] = [
  call(
    '`http` `response.end`',
    answered((response, bytes) => response.end(bytes)),
  ),
  call(
    '`response.write`',
    answered((response, bytes) => {
      response.write(bytes);
      response.end();
    }),
  ),
  call('`request.end`', posted(request)),
];
export const HTTP2: readonly Call[] = [call('`http2` `stream.end`', overHttp2)];
export const TLS: readonly Call[] = [call('`tls` `socket.write`, `https`', encrypted)];
export const FETCH: readonly Call[] = [
  call(
    '`fetch` with a `body`',
    posted((port, bytes) =>
      fetch(`http://127.0.0.1:${port}`, { method: 'POST', body: bytes }).then((response) => response.text()),
    ),
  ),
  call(
    '`new Request`',
    async (bytes) => new Uint8Array(await new Request('http://x', { method: 'POST', body: bytes }).arrayBuffer()),
  ),
  call('`new Response`', async (bytes) => new Uint8Array(await new Response(bytes).arrayBuffer())),
];
