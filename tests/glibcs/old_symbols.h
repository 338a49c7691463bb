/* Binds what glibc 2.32 to 2.38 gave new versions to the versions that 2.31 has too, so that one program runs on all.
 *
 * Included before anything else (gcc -include). The directives concern references only; where a program does not use a
 * name, its line does nothing. The first version is that of x86-64, whose oldest is 2.2.5; the second that of i386. */
#ifdef __i386__
#define OLD_AS(name, old_name, version, version_386) __asm__(".symver " #name "," #old_name "@GLIBC_" version_386)
#elif defined(__aarch64__) /* which has nothing older */
#define OLD_AS(name, old_name, version, version_386) __asm__(".symver " #name "," #old_name "@GLIBC_2.17")
#else
#define OLD_AS(name, old_name, version, version_386) __asm__(".symver " #name "," #old_name "@GLIBC_" version)
#endif
#define OLD(name, version, version_386) OLD_AS(name, name, version, version_386)

OLD(__libc_start_main, "2.2.5", "2.0");
OLD(dlopen, "2.2.5", "2.1");
OLD(dlsym, "2.2.5", "2.0");
OLD(pthread_attr_setguardsize, "2.2.5", "2.1");
OLD(pthread_attr_setstacksize, "2.2.5", "2.1");
OLD(pthread_barrier_destroy, "2.2.5", "2.2");
OLD(pthread_barrier_init, "2.2.5", "2.2");
OLD(pthread_barrier_wait, "2.2.5", "2.2");
OLD(pthread_cancel, "2.2.5", "2.0");
OLD(pthread_create, "2.2.5", "2.1");
OLD(pthread_detach, "2.2.5", "2.0");
OLD(pthread_getspecific, "2.2.5", "2.0");
OLD(pthread_join, "2.2.5", "2.0");
OLD(pthread_key_create, "2.2.5", "2.0");
OLD(pthread_kill, "2.2.5", "2.0");
OLD(pthread_mutex_trylock, "2.2.5", "2.0");
OLD(pthread_once, "2.2.5", "2.0");
OLD(pthread_setname_np, "2.12", "2.12");
OLD(pthread_setspecific, "2.2.5", "2.0");
OLD(pthread_sigmask, "2.2.5", "2.0");
OLD(sem_destroy, "2.2.5", "2.1");
OLD(sem_init, "2.2.5", "2.1");
OLD(sem_post, "2.2.5", "2.1");
OLD(sem_wait, "2.2.5", "2.1");
OLD_AS(__isoc23_strtol, strtol, "2.2.5", "2.0"); /* what headers of 2.38 and newer make of strtol */
OLD_AS(__isoc23_strtoul, strtoul, "2.2.5", "2.0");
OLD_AS(__isoc23_strtoull, strtoull, "2.2.5", "2.0");
