import type { DescService } from "@bufbuild/protobuf";
import { createRpcClient, type RpcClient, type RpcClientOptions } from "./client.ts";

/** Addresses remembered at once; beyond it the oldest client goes, as hosts come and go under new ones. */
const clientsMax = 1024;

/** Clients of one service by the address its servers have registered, made when first asked for. */
export function clientsByUrl<S extends DescService>(
  service: S,
  o: Pick<RpcClientOptions, "authorization" | "tls">,
): Disposable & { readonly of: (url: string) => RpcClient<S> } {
  const clients = new Map<string, RpcClient<S>>();
  return {
    of(url) {
      let client = clients.get(url);
      if (!client) {
        if (clients.size >= clientsMax) {
          const [oldest, old] = clients.entries().next().value!;
          clients.delete(oldest);
          old[Symbol.dispose]();
        }
        clients.set(url, client = createRpcClient(service, { ...o, endpoints: [url] }));
      }
      return client;
    },
    [Symbol.dispose]() {
      for (const client of clients.values()) client[Symbol.dispose]();
      clients.clear();
    },
  };
}
