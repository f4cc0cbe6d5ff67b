// The job of job.py on Apache Kafka Streams: Processor API, a persistent store (RocksDB) with its cache and a changelog, one
// stream thread. It takes its work from the environment, as clock.py has it; PEER_GUARANTEE is at_least_once or
// exactly_once_v2. JSON is read as a stream of tokens, state is stored in binary: that is what is quickest here.
import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.StreamWriteFeature;
import com.fasterxml.jackson.core.util.ByteArrayBuilder;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

public class TripsApp {
    static final String SERVERS = env("PEER_SERVERS"), GROUP = env("PEER_GROUP"), FOLDER = env("PEER_FOLDER");
    static final String SOURCE = env("PEER_SOURCE"), OUTPUT = env("PEER_OUTPUT"), GUARANTEE = env("PEER_GUARANTEE");
    static final long MESSAGES = Long.parseLong(env("PEER_MESSAGES"));
    static final double COMMIT_S = Double.parseDouble(env("PEER_COMMIT_S"));
    static final long MIN_DURATION_MS = 60_000;

    // There is one stream thread.
    static long count, outputs, began, cpuBefore;
    static final CountDownLatch ALL = new CountDownLatch(1);
    static final com.sun.management.OperatingSystemMXBean PROCESS =
        (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    static String env(String name) {
        String value = System.getenv(name);
        if (value == null) throw new IllegalStateException(name + " is not set");
        return value;
    }

    static final class State {
        boolean on;
        long start, newest, points;
        double lat, lon, distance, speedMax, speedSum, odometer;
    }

    static final class StateSerde implements Serializer<State>, Deserializer<State> {
        public byte[] serialize(String topic, State s) {
            if (s == null) return null;
            ByteBuffer to = ByteBuffer.allocate(73);
            to.put((byte) (s.on ? 1 : 0)).putLong(s.start).putLong(s.newest).putLong(s.points);
            to.putDouble(s.lat).putDouble(s.lon).putDouble(s.distance);
            return to.putDouble(s.speedMax).putDouble(s.speedSum).putDouble(s.odometer).array();
        }

        public State deserialize(String topic, byte[] bytes) {
            if (bytes == null) return null;
            ByteBuffer from = ByteBuffer.wrap(bytes);
            State s = new State();
            s.on = from.get() == 1;
            s.start = from.getLong();
            s.newest = from.getLong();
            s.points = from.getLong();
            s.lat = from.getDouble();
            s.lon = from.getDouble();
            s.distance = from.getDouble();
            s.speedMax = from.getDouble();
            s.speedSum = from.getDouble();
            s.odometer = from.getDouble();
            return s;
        }

        public void configure(Map<String, ?> configuration, boolean isKey) {}

        public void close() {}
    }

    static final JsonFactory JSON = JsonFactory.builder()
        .enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER)
        .enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER)
        .build();

    static final class Telemetry {
        String vehicle, timestamp, ignition;
        double lat, lon, speed, odometer;
    }

    static Telemetry parse(byte[] value) throws IOException {
        Telemetry t = new Telemetry();
        try (JsonParser p = JSON.createParser(value)) {
            p.nextToken();
            while (p.nextToken() == JsonToken.FIELD_NAME) {
                String name = p.currentName();
                p.nextToken();
                switch (name) {
                    case "vehicle_id" -> t.vehicle = p.getText();
                    case "timestamp" -> t.timestamp = p.getText();
                    case "ignition" -> t.ignition = p.getText();
                    case "speed_in_kmh" -> t.speed = p.getDoubleValue();
                    case "mileage_in_kilometers" -> t.odometer = p.getDoubleValue();
                    case "position" -> {
                        while (p.nextToken() == JsonToken.FIELD_NAME) {
                            String coordinate = p.currentName();
                            p.nextToken();
                            switch (coordinate) {
                                case "lat" -> t.lat = p.getDoubleValue();
                                case "lon" -> t.lon = p.getDoubleValue();
                                default -> p.skipChildren();
                            }
                        }
                    }
                    default -> p.skipChildren();
                }
            }
        }
        return t;
    }

    static int digits(String text, int from, int to) {
        int value = 0;
        for (int i = from; i < to; i++) value = value * 10 + text.charAt(i) - '0';
        return value;
    }

    /** Of yyyy-MM-ddTHH:mm:ssZ or yyyy-MM-ddTHH:mm:ss.SSSZ; days by Howard Hinnant's days_from_civil. */
    static long epochMs(String t) {
        int year = digits(t, 0, 4), month = digits(t, 5, 7), day = digits(t, 8, 10);
        int shifted = month <= 2 ? year - 1 : year, era = shifted / 400, yearOfEra = shifted - era * 400;
        int dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
        long days = era * 146097L + yearOfEra * 365L + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719468;
        long seconds = (days * 24 + digits(t, 11, 13)) * 3600 + digits(t, 14, 16) * 60 + digits(t, 17, 19);
        return seconds * 1000 + (t.charAt(19) == '.' ? digits(t, 20, 23) : 0);
    }

    static final double RADIANS = Math.PI / 180, EARTH_RADIUS_M = 6371008.8;

    static double distance(double latA, double lonA, double latB, double lonB) {
        double phiA = latA * RADIANS, phiB = latB * RADIANS;
        double halfLat = Math.sin((phiB - phiA) * .5), halfLon = Math.sin((lonB - lonA) * RADIANS * .5);
        double h = halfLat * halfLat + Math.cos(phiA) * Math.cos(phiB) * halfLon * halfLon;
        return 2 * EARTH_RADIUS_M * Math.asin(Math.sqrt(h));
    }

    // BLAKE2b of at most one block, 16 bytes: the id of a trip, as in job.py. Java's library has none.
    static final long[] IV = {
        0x6a09e667f3bcc908L, 0xbb67ae8584caa73bL, 0x3c6ef372fe94f82bL, 0xa54ff53a5f1d36f1L,
        0x510e527fade682d1L, 0x9b05688c2b3e6c1fL, 0x1f83d9abfb41bd6bL, 0x5be0cd19137e2179L
    };
    static final byte[][] SIGMA = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
        {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
        {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
        {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
        {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}
    };
    static final char[] HEX = "0123456789abcdef".toCharArray();

    static void mix(long[] v, int a, int b, int c, int d, long x, long y) {
        v[a] += v[b] + x;
        v[d] = Long.rotateRight(v[d] ^ v[a], 32);
        v[c] += v[d];
        v[b] = Long.rotateRight(v[b] ^ v[c], 24);
        v[a] += v[b] + y;
        v[d] = Long.rotateRight(v[d] ^ v[a], 16);
        v[c] += v[d];
        v[b] = Long.rotateRight(v[b] ^ v[c], 63);
    }

    static String tripId(String vehicle, long start) {
        byte[] text = (vehicle + "|" + start).getBytes(StandardCharsets.UTF_8);
        if (text.length > 128) throw new IllegalArgumentException("one block only");
        ByteBuffer block = ByteBuffer.wrap(Arrays.copyOf(text, 128)).order(ByteOrder.LITTLE_ENDIAN);
        long[] m = new long[16], v = new long[16];
        for (int i = 0; i < 16; i++) m[i] = block.getLong();
        long first = IV[0] ^ 0x01010000L ^ 16;
        System.arraycopy(IV, 0, v, 0, 8);
        System.arraycopy(IV, 0, v, 8, 8);
        v[0] = first;
        v[12] ^= text.length;
        v[14] = ~v[14];
        for (int round = 0; round < 12; round++) {
            byte[] s = SIGMA[round % 10];
            mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
            mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
            mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
            mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
            mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
            mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
            mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
            mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
        }
        long[] hash = {first ^ v[0] ^ v[8], IV[1] ^ v[1] ^ v[9]};
        char[] out = new char[32];
        for (int i = 0; i < 16; i++) {
            int octet = (int) (hash[i >> 3] >>> (8 * (i & 7))) & 255;
            out[2 * i] = HEX[octet >> 4];
            out[2 * i + 1] = HEX[octet & 15];
        }
        return new String(out);
    }

    interface Fields {
        void write(JsonGenerator to) throws IOException;
    }

    static final class Trips implements Processor<byte[], byte[], byte[], byte[]> {
        ProcessorContext<byte[], byte[]> context;
        KeyValueStore<String, State> store;

        public void init(ProcessorContext<byte[], byte[]> given) {
            context = given;
            store = given.getStateStore("states");
        }

        void emit(Record<byte[], byte[]> from, String type, String vehicle, long start, Fields more) throws IOException {
            ByteArrayBuilder bytes = new ByteArrayBuilder(256);
            try (JsonGenerator to = JSON.createGenerator(bytes)) {
                to.writeStartObject();
                to.writeStringField("type", type);
                to.writeStringField("trip_id", tripId(vehicle, start));
                to.writeStringField("vehicle_id", vehicle);
                to.writeNumberField("start", start);
                more.write(to);
                to.writeEndObject();
            }
            outputs++;
            context.forward(from.withValue(bytes.toByteArray()));
        }

        public void process(Record<byte[], byte[]> record) {
            if (count++ == 0) {
                began = System.nanoTime();
                cpuBefore = PROCESS.getProcessCpuTime();
            }
            if (count == MESSAGES) {
                context.commit();
                ALL.countDown();
            }
            try {
                step(record, parse(record.value()));
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }

        void step(Record<byte[], byte[]> record, Telemetry t) throws IOException {
            State known = store.get(t.vehicle);
            final State s = known == null ? new State() : known;
            final long now = epochMs(t.timestamp);
            if (now <= s.newest) return;
            s.newest = now;
            boolean on = t.ignition.equals("ON");
            if (s.on) {
                s.distance += distance(s.lat, s.lon, t.lat, t.lon);
                s.lat = t.lat;
                s.lon = t.lon;
                s.points++;
                s.speedSum += t.speed;
                if (t.speed > s.speedMax) s.speedMax = t.speed;
                if (!on) {
                    s.on = false;
                    end(record, t, s, now);
                }
            } else if (on) {
                s.on = true;
                s.start = now;
                s.lat = t.lat;
                s.lon = t.lon;
                s.distance = 0;
                s.points = 1;
                s.speedMax = s.speedSum = t.speed;
                s.odometer = t.odometer;
                emit(record, "TripStarted", t.vehicle, now, to -> {
                    to.writeNumberField("lat", t.lat);
                    to.writeNumberField("lon", t.lon);
                });
            }
            store.put(t.vehicle, s);
        }

        void end(Record<byte[], byte[]> record, Telemetry t, State s, long now) throws IOException {
            if (now - s.start < MIN_DURATION_MS) {
                emit(record, "TripDiscarded", t.vehicle, s.start, to -> {
                    to.writeNumberField("end", now);
                    to.writeStringField("reason", "TOO_SHORT");
                });
                return;
            }
            emit(record, "TripEnded", t.vehicle, s.start, to -> to.writeNumberField("end", now));
            emit(record, "TripDataReady", t.vehicle, s.start, to -> {
                to.writeNumberField("end", now);
                to.writeNumberField("distance_m", s.distance);
                to.writeNumberField("odometer_m", Math.round((t.odometer - s.odometer) * 1000));
                to.writeNumberField("points", s.points);
                to.writeNumberField("max_kmh", s.speedMax);
                to.writeNumberField("average_kmh", s.speedSum / s.points);
            });
        }
    }

    static KafkaStreams streams() {
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, GROUP);
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, SERVERS);
        p.put(StreamsConfig.STATE_DIR_CONFIG, FOLDER + "/kstreams");
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, GUARANTEE);
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, (long) (COMMIT_S * 1000));
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG), 50);
        StoreBuilder<KeyValueStore<String, State>> states = Stores.keyValueStoreBuilder(
            Stores.persistentKeyValueStore("states"),
            Serdes.String(),
            Serdes.serdeFrom(new StateSerde(), new StateSerde()));
        Topology topology = new Topology();
        topology.addSource("source", new ByteArrayDeserializer(), new ByteArrayDeserializer(), SOURCE)
            .addProcessor("trips", Trips::new, "source")
            .addStateStore(states.withLoggingEnabled(Map.of()).withCachingEnabled(), "trips")
            .addSink("output", OUTPUT, new ByteArraySerializer(), new ByteArraySerializer(), "trips");
        KafkaStreams streams = new KafkaStreams(topology, p);
        streams.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            Runtime.getRuntime().halt(3);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        return streams;
    }

    static void awaitCommit() throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", SERVERS))) {
            long committed = 0;
            while (committed < MESSAGES) {
                Thread.sleep(5);
                committed = admin.listConsumerGroupOffsets(GROUP).partitionsToOffsetAndMetadata().get()
                    .entrySet().stream().filter(e -> e.getKey().topic().equals(SOURCE))
                    .mapToLong(e -> e.getValue().offset()).sum();
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        KafkaStreams streams = streams();
        streams.start();
        ALL.await();
        awaitCommit();
        double seconds = (System.nanoTime() - began) / 1e9, cpu = (PROCESS.getProcessCpuTime() - cpuBefore) / 1e9;
        System.out.printf(Locale.ROOT, "RESULT {\"seconds\": %.4f, \"cpu\": %.3f, \"outputs\": %d}%n", seconds, cpu, outputs);
        System.out.flush();
        streams.close(Duration.ofSeconds(10));
        Runtime.getRuntime().halt(0);
    }
}
