import type { DescService } from "@bufbuild/protobuf";
import { seededRng, systemClock } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import {
  anonymous,
  type AuditRecord,
  type BoundService,
  createRpcClient,
  type HttpHandler,
  type Principal,
  type RpcClient,
  startRpcServer,
} from "@ultracloud/rpc";

export interface LocalServer extends AsyncDisposable {
  readonly url: string;
  /** What was asked of the authoriser, newest last. */
  readonly asked: { permission: string; scope: string }[];
  readonly audit: AuditRecord[];
  /** Changes who calls and whether they may. */
  who: { principal: Principal; allow: boolean };
  client<S extends DescService>(service: S): RpcClient<S>;
}

/** A service's handlers behind a real server on loopback, with an authority the test decides for. */
export async function serveLocally(
  name: string,
  services: readonly BoundService[],
  http?: HttpHandler,
): Promise<LocalServer> {
  const stack = new AsyncDisposableStack();
  const asked: LocalServer["asked"] = [];
  const audit: AuditRecord[] = [];
  const self = { who: { principal: { kind: "user", id: "user:usr_test" } as Principal, allow: true } };
  const server = stack.use(
    await startRpcServer({ name, version: "0.0.0", listen: "127.0.0.1:0" }, {
      services,
      http,
      authenticator: { authenticate: (header) => header.has("authorization") ? self.who.principal : anonymous },
      authorizer: {
        authorize(_principal, permission, scope) {
          asked.push({ permission, scope });
          return self.who.allow ? { allow: true } : { allow: false, visible: true, reason: "the test says no" };
        },
      },
      registry: new Registry(),
      health: new Health(),
      log: noopLogger,
      clock: systemClock,
      rng: seededRng(1),
      audit: (record) => audit.push(record),
    }),
  );
  return Object.assign(self, {
    url: server.url,
    asked,
    audit,
    client: <S extends DescService>(service: S) =>
      stack.use(createRpcClient(service, { endpoints: [server.url], authorization: () => "Bearer test", retries: 0 })),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  });
}
