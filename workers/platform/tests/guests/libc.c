/* An ordinary program: thread-local data, threads, stdio, malloc. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static __thread int mine = 11;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long total;

static void *work(void *argument)
{
	for (int i = 0; i < 500; i++) {
		char *p = malloc(1000 + 300 * i);
		memset(p, i, 1000);
		free(p);
		pthread_mutex_lock(&lock);
		total += mine;
		pthread_mutex_unlock(&lock);
	}
	mine += (int)(long)argument;
	return (void *)(long)mine;
}

int main(void)
{
	long sum = 0;
	for (int round = 0; round < 10; round++) {
		pthread_t threads[6];
		for (long n = 0; n < 6; n++)
			if (pthread_create(&threads[n], 0, work, (void *)n))
				return 1;
		for (int n = 0; n < 6; n++) {
			void *result;
			pthread_join(threads[n], &result);
			sum += (long)result;
		}
	}
	char *big = malloc(64 << 20);
	memset(big, 1, 64 << 20);
	big = realloc(big, 200 << 20);
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		printf("child %d\n", mine);
		fflush(stdout);
		_exit(5);
	}
	int status = 0;
	waitpid(child, &status, 0);
	printf("total %ld sum %ld mine %d big %d status %d\n", total, sum, mine, big[(64 << 20) - 1], WEXITSTATUS(status));
	return 0;
}
