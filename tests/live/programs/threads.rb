# Threads that build strings of every size, drop most of them, and sleep. Ready when all have done so; ends at EOF.
built = Queue.new
never = Queue.new
kept = Queue.new

threads = Array.new(Integer(ARGV.fetch(0))) do |number|
  Thread.new do
    random = Random.new(number)
    strings = Array.new(4000) { "x" * random.rand(24..4000) }
    kept << strings.each_slice(10).map(&:first)
    strings = nil
    built << number
    never.pop
  end
end

threads.each { built.pop }
GC.start
$stdout.puts "ready"
$stdout.flush
$stdin.read
exit!(0)
