export * from "../gen/ultracloud/flaredb/v1/flaredb_pb.ts";
