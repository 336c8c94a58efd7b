import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { SigningKeyService } from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Keyring } from "./keyring.ts";
import type { PolicyStore } from "./policy_store.ts";

export function signingKeyService(deps: { readonly keyring: Keyring; readonly policy: PolicyStore }): BoundService {
  const { keyring, policy } = deps;
  const list = () =>
    keyring.phases().map(({ kid, phase, createMs, signFromMs, retireAtMs }) => ({
      id: kid,
      phase,
      createTime: timestampFromMs(createMs),
      signTime: timestampFromMs(signFromMs ?? createMs),
      ...(retireAtMs === undefined ? {} : { retireTime: timestampFromMs(retireAtMs) }),
    }));
  return bind(SigningKeyService, {
    listSigningKeys: () => ({ keys: list() }),
    async rotateSigningKey({ emergency, signingKey }) {
      await keyring.rotate({ emergency, signingKey });
      await policy.refresh();
      return { keys: list() };
    },
  }, {
    listSigningKeys: { resource: "signing_key", action: "list", scope: () => "" },
    rotateSigningKey: { resource: "signing_key", action: "rotate", scope: () => "" },
  });
}
