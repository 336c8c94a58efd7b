import type { DescService } from "@bufbuild/protobuf";
import type { AuthzTable, BoundService, Handlers } from "@ultracloud/rpc";

/** Serves those RPCs of a service that have handlers; a call of another is answered as an unknown method. */
export function bindPart<S extends DescService>(
  service: S,
  handlers: Partial<Handlers<S>>,
  authz: Partial<AuthzTable<S>>,
): BoundService {
  const methods = service.methods.filter(({ localName }) => localName in handlers);
  return { service: { ...service, methods }, handlers, authz: authz as BoundService["authz"] };
}
