import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.zip.Deflater;

/** Threads that allocate outside the Java heap (zlib, direct buffers), give most of it back, and park. */
public class Threads {
    static final List<Object> KEPT = new ArrayList<>();

    static void work(int number) {
        Random random = new Random(number);
        byte[] text = new byte[1 << 15];
        byte[] packed = new byte[1 << 16];
        List<Deflater> open = new ArrayList<>();
        for (int i = 0; i < 24; i++) {
            for (int j = 0; j < text.length; j++) text[j] = (byte) ('a' + random.nextInt(8));
            Deflater deflater = new Deflater(1 + random.nextInt(9));
            deflater.setInput(text);
            deflater.finish();
            while (!deflater.finished()) deflater.deflate(packed);
            open.add(deflater);
        }
        for (int i = 0; i < open.size(); i++) if (i % 6 != 0) open.get(i).end();
        ByteBuffer direct = ByteBuffer.allocateDirect(1000 + random.nextInt(100000));
        synchronized (KEPT) {
            KEPT.add(open);
            KEPT.add(direct);
        }
    }

    public static void main(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[0]);
        CountDownLatch built = new CountDownLatch(count);
        CountDownLatch never = new CountDownLatch(1);
        for (int i = 0; i < count; i++) {
            int number = i;
            Thread thread = new Thread(() -> {
                work(number);
                built.countDown();
                try {
                    never.await();
                } catch (InterruptedException end) {
                    Thread.currentThread().interrupt();
                }
            });
            thread.setDaemon(true);
            thread.start();
        }
        built.await();
        System.out.println("ready");
        System.out.flush();
        while (System.in.read() >= 0) { }
    }
}
