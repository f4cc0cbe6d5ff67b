// (f) The trip job on Apache Kafka Streams (Processor API, persistent RocksDB store, changelog on), one stream thread.
// Environment: BOOT, N, GRP, STATE (scratch folder), COMMIT (s), GUARANTEE=at_least_once|exactly_once_v2, CACHE=1|0 (store cache: coalesces a key's
// writes between commits), PARSER=stream|pojo (Jackson token stream, or databind into a class), KS_POLL, KS_LINGER, KS_BATCH
// (max.poll.records, linger.ms, batch.size; Streams' defaults otherwise), TELEMETRY_TOPIC, EVENTS_TOPIC.
import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.core.*;
import com.fasterxml.jackson.core.util.ByteArrayBuilder;
import com.fasterxml.jackson.databind.*;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.processor.api.*;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.*;

public class TripsApp {
    static String env(String k, String d) { String v = System.getenv(k); return v == null || v.isEmpty() ? d : v; }
    static final String BOOT = env("PEER_SERVERS", ""), GRP = env("PEER_GROUP", ""), STATE = env("PEER_FOLDER", "."), IN = env("PEER_SOURCE", ""), OUT = env("PEER_OUTPUT", "");
    static final long N = Long.parseLong(env("PEER_MESSAGES", "0"));
    static final boolean POJO = env("PARSER", "stream").equals("pojo");
    static long cnt, nout, t0, c0, w0;                     // one stream thread
    static final CountDownLatch all = new CountDownLatch(1);
    static final com.sun.management.OperatingSystemMXBean OS = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    static final class St { boolean open; long start, last; double lat, lon, dist; long n; double vmax, vsum, odo0; }
    static final class StSerde implements Serializer<St>, Deserializer<St> {
        public byte[] serialize(String t, St s) {
            if (s == null) return null;
            ByteBuffer b = ByteBuffer.allocate(81);
            b.put((byte) (s.open ? 1 : 0)).putLong(s.start).putLong(s.last).putDouble(s.lat).putDouble(s.lon).putDouble(s.dist).putLong(s.n).putDouble(s.vmax).putDouble(s.vsum).putDouble(s.odo0);
            return b.array();
        }
        public St deserialize(String t, byte[] d) {
            if (d == null) return null;
            ByteBuffer b = ByteBuffer.wrap(d); St s = new St();
            s.open = b.get() == 1; s.start = b.getLong(); s.last = b.getLong(); s.lat = b.getDouble(); s.lon = b.getDouble(); s.dist = b.getDouble();
            s.n = b.getLong(); s.vmax = b.getDouble(); s.vsum = b.getDouble(); s.odo0 = b.getDouble();
            return s;
        }
        public void configure(Map<String, ?> c, boolean k) {}
        public void close() {}
    }

    @JsonIgnoreProperties(ignoreUnknown = true)
    static final class Pos { public double lat, lon; }
    @JsonIgnoreProperties(ignoreUnknown = true)
    static final class Tel {
        public String vehicle_id, timestamp, ignition; public double lat, lon, speed_in_kmh, mileage_in_kilometers;
        public void setPosition(Pos p) { lat = p.lat; lon = p.lon; }
    }
    static final JsonFactory F = JsonFactory.builder().enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER).enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER).build();
    static final ObjectReader R = new ObjectMapper().readerFor(Tel.class);
    static Tel parse(byte[] v) throws java.io.IOException {
        if (POJO) return R.readValue(v);
        Tel t = new Tel();
        try (JsonParser p = F.createParser(v)) {
            p.nextToken();
            while (p.nextToken() == JsonToken.FIELD_NAME) {
                String f = p.currentName(); p.nextToken();
                switch (f) {
                    case "vehicle_id": t.vehicle_id = p.getText(); break;
                    case "timestamp": t.timestamp = p.getText(); break;
                    case "ignition": t.ignition = p.getText(); break;
                    case "position":
                        while (p.nextToken() == JsonToken.FIELD_NAME) {
                            String c = p.currentName(); p.nextToken();
                            switch (c) {
                                case "lat": t.lat = p.getDoubleValue(); break;
                                case "lon": t.lon = p.getDoubleValue(); break;
                                default: p.skipChildren();
                            }
                        }
                        break;
                    case "speed_in_kmh": t.speed_in_kmh = p.getDoubleValue(); break;
                    case "mileage_in_kilometers": t.mileage_in_kilometers = p.getDoubleValue(); break;
                    default: p.skipChildren();
                }
            }
        }
        return t;
    }
    static int num(String s, int a, int b) { int x = 0; for (int i = a; i < b; i++) x = x * 10 + s.charAt(i) - '0'; return x; }
    /** yyyy-MM-ddTHH:mm:ss.SSSZ to epoch ms. */
    static long ms(String s) {
        int y = num(s, 0, 4), m = num(s, 5, 7), d = num(s, 8, 10);
        int yy = m <= 2 ? y - 1 : y, era = yy / 400, yoe = yy - era * 400, doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
        long day = era * 146097L + yoe * 365L + yoe / 4 - yoe / 100 + doy - 719468;
        return ((day * 24 + num(s, 11, 13)) * 60 + num(s, 14, 16)) * 60_000L + num(s, 17, 19) * 1000L + num(s, 20, 23);
    }
    static final double K = Math.PI / 180, RE = 6371008.8;
    static double hav(double lat1, double lon1, double lat2, double lon2) {
        double p1 = lat1 * K, p2 = lat2 * K, a = Math.sin((p2 - p1) * .5), b = Math.sin((lon2 - lon1) * K * .5);
        return 2 * RE * Math.asin(Math.sqrt(a * a + Math.cos(p1) * Math.cos(p2) * b * b));
    }
    // BLAKE2b, one block, 16-byte digest (the reference's trip id)
    static final long[] IV = {0x6a09e667f3bcc908L, 0xbb67ae8584caa73bL, 0x3c6ef372fe94f82bL, 0xa54ff53a5f1d36f1L, 0x510e527fade682d1L, 0x9b05688c2b3e6c1fL, 0x1f83d9abfb41bd6bL, 0x5be0cd19137e2179L};
    static final byte[][] SIG = {{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15},{14,10,4,8,9,15,13,6,1,12,0,2,11,7,5,3},{11,8,12,0,5,2,15,13,10,14,3,6,7,1,9,4},{7,9,3,1,13,12,11,14,2,6,5,10,4,0,15,8},{9,0,5,7,2,4,10,15,14,1,11,12,6,8,3,13},
        {2,12,6,10,0,11,8,3,4,13,7,5,15,14,1,9},{12,5,1,15,14,13,4,10,0,7,6,3,9,2,8,11},{13,11,7,14,12,1,3,9,5,0,15,4,8,6,2,10},{6,15,14,9,11,3,0,8,12,2,13,7,1,4,10,5},{10,2,8,4,7,6,1,5,15,11,9,14,3,12,13,0}};
    static void g(long[] v, int a, int b, int c, int d, long x, long y) {
        v[a] += v[b] + x; v[d] = Long.rotateRight(v[d] ^ v[a], 32); v[c] += v[d]; v[b] = Long.rotateRight(v[b] ^ v[c], 24);
        v[a] += v[b] + y; v[d] = Long.rotateRight(v[d] ^ v[a], 16); v[c] += v[d]; v[b] = Long.rotateRight(v[b] ^ v[c], 63);
    }
    static final char[] HEX = "0123456789abcdef".toCharArray();
    static String tid(String veh, long start) {
        byte[] in = (veh + "|" + start).getBytes(StandardCharsets.UTF_8);
        if (in.length > 128) throw new IllegalArgumentException("one block only");
        ByteBuffer bb = ByteBuffer.wrap(Arrays.copyOf(in, 128)).order(java.nio.ByteOrder.LITTLE_ENDIAN);
        long[] m = new long[16], v = new long[16];
        for (int i = 0; i < 16; i++) m[i] = bb.getLong();
        long h0 = IV[0] ^ 0x01010000L ^ 16;
        System.arraycopy(IV, 0, v, 0, 8); System.arraycopy(IV, 0, v, 8, 8);
        v[0] = h0; v[12] ^= in.length; v[14] = ~v[14];
        for (int r = 0; r < 12; r++) {
            byte[] s = SIG[r % 10];
            g(v, 0, 4, 8, 12, m[s[0]], m[s[1]]); g(v, 1, 5, 9, 13, m[s[2]], m[s[3]]); g(v, 2, 6, 10, 14, m[s[4]], m[s[5]]); g(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
            g(v, 0, 5, 10, 15, m[s[8]], m[s[9]]); g(v, 1, 6, 11, 12, m[s[10]], m[s[11]]); g(v, 2, 7, 8, 13, m[s[12]], m[s[13]]); g(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
        }
        long[] h = {h0 ^ v[0] ^ v[8], IV[1] ^ v[1] ^ v[9]};
        char[] o = new char[32];
        for (int i = 0; i < 16; i++) { int b = (int) (h[i >> 3] >>> (8 * (i & 7))) & 255; o[2 * i] = HEX[b >> 4]; o[2 * i + 1] = HEX[b & 15]; }
        return new String(o);
    }

    static final class P implements Processor<byte[], byte[], byte[], byte[]> {
        ProcessorContext<byte[], byte[]> ctx; KeyValueStore<String, St> store;
        public void init(ProcessorContext<byte[], byte[]> c) { ctx = c; store = c.getStateStore("st"); }
        interface W { void w(JsonGenerator g) throws java.io.IOException; }
        void emit(Record<byte[], byte[]> r, String type, String id, String veh, long start, W more) throws java.io.IOException {
            ByteArrayBuilder b = new ByteArrayBuilder(256);
            try (JsonGenerator g = F.createGenerator(b)) {
                g.writeStartObject(); g.writeStringField("type", type); g.writeStringField("trip_id", id); g.writeStringField("vehicle_id", veh); g.writeNumberField("start", start);
                more.w(g); g.writeEndObject();
            }
            nout++;
            ctx.forward(r.withValue(b.toByteArray()));
        }
        public void process(Record<byte[], byte[]> r) {
            if (cnt++ == 0) { w0 = System.currentTimeMillis(); t0 = System.nanoTime(); c0 = OS.getProcessCpuTime(); }
            if (cnt == N) { ctx.commit(); all.countDown(); }
            try {
                Tel d = parse(r.value());
                St s = store.get(d.vehicle_id);
                if (s == null) s = new St();
                long t = ms(d.timestamp); boolean on = d.ignition.equals("ON"); double v = d.speed_in_kmh;
                if (t <= s.last) return;
                s.last = t;
                if (s.open) {
                    s.dist += hav(s.lat, s.lon, d.lat, d.lon); s.lat = d.lat; s.lon = d.lon; s.n++; s.vsum += v;
                    if (v > s.vmax) s.vmax = v;
                    if (!on) {
                        s.open = false; String id = tid(d.vehicle_id, s.start); final St f = s;
                        if (t - s.start < 60000) emit(r, "TripDiscarded", id, d.vehicle_id, s.start, g -> { g.writeNumberField("end", t); g.writeStringField("reason", "too_short"); });
                        else {
                            emit(r, "TripEnded", id, d.vehicle_id, s.start, g -> g.writeNumberField("end", t));
                            emit(r, "TripDataReady", id, d.vehicle_id, s.start, g -> { g.writeNumberField("end", t); g.writeNumberField("distance_m", f.dist); g.writeNumberField("points", f.n);
                                g.writeNumberField("max_kmh", f.vmax); g.writeNumberField("avg_kmh", f.vsum / f.n); g.writeNumberField("odometer_m", Math.round((d.mileage_in_kilometers - f.odo0) * 1000)); });
                        }
                    }
                } else if (on) {
                    s.open = true; s.start = t; s.lat = d.lat; s.lon = d.lon; s.dist = 0; s.n = 1; s.vmax = s.vsum = v; s.odo0 = d.mileage_in_kilometers;
                    emit(r, "TripStarted", tid(d.vehicle_id, t), d.vehicle_id, t, g -> { g.writeNumberField("lat", d.lat); g.writeNumberField("lon", d.lon); });
                }
                store.put(d.vehicle_id, s);
            } catch (java.io.IOException e) { throw new RuntimeException(e); }
        }
    }

    public static void main(String[] a) throws Exception {
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, GRP); p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, BOOT); p.put(StreamsConfig.STATE_DIR_CONFIG, STATE + "/kstreams");
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1); p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, env("PEER_GUARANTEE", "at_least_once"));
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, (long) (Double.parseDouble(env("PEER_COMMIT_S", "1.0")) * 1000)); p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest"); p.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG), 50);
        if (!env("KS_POLL", "").isEmpty()) p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), Integer.parseInt(env("KS_POLL", "")));
        if (!env("KS_LINGER", "").isEmpty()) p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), Integer.parseInt(env("KS_LINGER", "")));
        if (!env("KS_BATCH", "").isEmpty()) p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), Integer.parseInt(env("KS_BATCH", "")));
        StoreBuilder<KeyValueStore<String, St>> sb = Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("st"), Serdes.String(), Serdes.serdeFrom(new StSerde(), new StSerde())).withLoggingEnabled(Map.of());
        if (env("CACHE", "1").equals("1")) sb = sb.withCachingEnabled();
        Topology t = new Topology();
        t.addSource("src", new ByteArrayDeserializer(), new ByteArrayDeserializer(), IN).addProcessor("p", P::new, "src").addStateStore(sb, "p").addSink("out", OUT, new ByteArraySerializer(), new ByteArraySerializer(), "p");
        KafkaStreams ks = new KafkaStreams(t, p);
        ks.setUncaughtExceptionHandler(e -> { e.printStackTrace(); Runtime.getRuntime().halt(3); return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT; });
        ks.start();
        all.await();
        try (Admin ad = Admin.create(Map.of("bootstrap.servers", BOOT))) {         // until the group's committed offsets reach N
            while (true) {
                long s = 0;
                for (Map.Entry<TopicPartition, OffsetAndMetadata> e : ad.listConsumerGroupOffsets(GRP).partitionsToOffsetAndMetadata().get().entrySet()) if (e.getKey().topic().equals(IN)) s += e.getValue().offset();
                if (s >= N) break;
                Thread.sleep(5);
            }
        }
        double sec = (System.nanoTime() - t0) / 1e9, cpu = (OS.getProcessCpuTime() - c0) / 1e9;
        System.out.printf(Locale.ROOT, "RESULT {\"n\": %d, \"sec\": %.4f, \"rps\": %.1f, \"cpu\": %.3f, \"first\": %.3f, \"last\": %.3f, \"out\": %d}%n", cnt, sec, cnt / sec, cpu, w0 / 1e3, System.currentTimeMillis() / 1e3, nout);
        System.out.flush();
        ks.close(java.time.Duration.ofSeconds(10));
        Runtime.getRuntime().halt(0);
    }
}
