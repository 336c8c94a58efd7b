import { prepareCluster } from "../test_cluster.ts";
import { Comparer, type Comparison } from "./test_compare.ts";
import { startEtcd } from "./test_etcd.ts";
import { Side } from "./test_side.ts";

/** One comparison of a fresh etcd and a fresh member, both real processes. */
export async function compareOnce(options: { readonly seed: number; readonly requests: number }): Promise<Comparison> {
  await using etcd = await startEtcd();
  await using cluster = await prepareCluster(1);
  await cluster.startAll();
  const { url } = await cluster.address(1);
  const json = { "content-type": "application/json" };
  // Tokens last a minute: each request carries a fresh one.
  const headers = async () => ({ ...json, authorization: (await cluster.address(1)).authorization });
  const comparer = new Comparer(options, {
    etcd: new Side("etcd", etcd.url, () => Promise.resolve(json)),
    chainfire: new Side("chainfire", url, headers),
  });
  return await comparer.run(options.requests);
}
